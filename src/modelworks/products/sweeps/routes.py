"""HTTP of sweeps: their trials, the data of their plots, and stop. They are written as any resource is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from modelworks.db import events, resources
from modelworks.db.trials import of as trials_of
from modelworks.kernel.errors import Conflict
from modelworks.products.context import ContextOf, NamePath, WorkspaceOf
from modelworks.products.named import named
from modelworks.products.sweeps import plots
from modelworks.products.sweeps.facade import SWEEP
from modelworks.products.sweeps.importances import FEWEST, importances
from modelworks.products.sweeps.observe import job_name
from modelworks.products.sweeps.queries import STOP_REQUESTED
from modelworks.products.sweeps.record import SweepPhase
from modelworks.products.sweeps.spec import SweepSpec

_routes = APIRouter(prefix="/sweeps", tags=["sweeps"])


def router() -> APIRouter:
    return _routes


class TrialDocument(BaseModel):
    """One trial: its parameters, its job, and the objective at the last step that it reported."""

    number: int
    job: str
    state: str
    parameters: dict[str, Any]
    value: float | None
    step: int | None
    reason: str
    created_at: datetime
    ended_at: datetime | None


class TrialList(BaseModel):
    """Trials by number."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "metric": "loss",
                    "goal": "minimize",
                    "items": [
                        {
                            "number": 0,
                            "job": "digits-0",
                            "state": "complete",
                            "parameters": {"learning_rate": 0.01, "optimizer": "adam"},
                            "value": 0.21,
                            "step": 500,
                            "reason": "",
                            "created_at": "2026-01-31T09:00:00Z",
                            "ended_at": "2026-01-31T09:10:00Z",
                        }
                    ],
                }
            ]
        }
    )

    metric: str
    goal: str
    items: list[TrialDocument]


class HistoryPoint(BaseModel):
    """A complete trial, and the best value until it."""

    trial: int
    value: float
    best: float


class Curve(BaseModel):
    """A trial's values by step."""

    trial: int
    state: str
    steps: list[int]
    values: list[float]


class Coordinates(BaseModel):
    """A complete trial's parameters and value."""

    trial: int
    value: float
    parameters: dict[str, Any]


class Plot(BaseModel):
    """What the plots of a sweep are made of."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "metric": "loss",
                    "goal": "minimize",
                    "parameters": {"learning_rate": {"type": "float", "low": 0.0001, "high": 0.1, "log": True}},
                    "history": [{"trial": 0, "value": 0.21, "best": 0.21}],
                    "curves": [{"trial": 0, "state": "complete", "steps": [100, 500], "values": [0.4, 0.21]}],
                    "coordinates": [{"trial": 0, "value": 0.21, "parameters": {"learning_rate": 0.01}}],
                }
            ]
        }
    )

    metric: str
    goal: str
    parameters: dict[str, Any]
    history: list[HistoryPoint]
    curves: list[Curve]
    coordinates: list[Coordinates]


class Importances(BaseModel):
    """How much each parameter mattered for the objective: shares that add up to 1, the greatest first.

    Empty while fewer trials are complete than are `needed`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"importances": {"learning_rate": 0.9, "dropout": 0.1}, "complete": 12, "needed": 8}]
        }
    )

    importances: dict[str, float]
    complete: int
    needed: int


class SweepDocument(BaseModel):
    """The sweep as it is stored."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    **SWEEP.example,
                    "metadata": {"name": "digits", "workspace": "default"},
                    "status": {"phase": "Running", "message": "3 of 40 trials, 4 running"},
                }
            ]
        },
    )

    kind: str
    metadata: dict[str, Any]
    spec: dict[str, Any]
    status: dict[str, Any]


@_routes.get("/{name}/trials", summary="The trials of a sweep", operation_id="listTrials")
def list_trials(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> TrialList:
    """All that were begun, by number."""
    with context.engine.connect() as connection:
        sweep = named(connection, SWEEP.name, workspace, name)
        found = trials_of(connection, sweep.uid)
    spec = SweepSpec.parse(sweep.spec, at="spec")
    items = [
        TrialDocument(
            number=trial.number,
            job=job_name(name, trial.number),
            state=trial.state,
            parameters=trial.parameters,
            value=trial.value,
            step=trial.step,
            reason=trial.reason,
            created_at=trial.created_at,
            ended_at=trial.ended_at,
        )
        for trial in found
    ]
    return TrialList(metric=spec.objective.metric, goal=spec.objective.goal, items=items)


@_routes.get("/{name}/plot", summary="The data of a sweep's plots", operation_id="plotSweep")
def plot(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> Plot:
    """The best value over the trials, values by step, and parameters against values."""
    with context.engine.connect() as connection:
        sweep = named(connection, SWEEP.name, workspace, name)
        found = trials_of(connection, sweep.uid, reports=True)
    spec = SweepSpec.parse(sweep.spec, at="spec")
    return Plot(
        metric=spec.objective.metric,
        goal=spec.objective.goal,
        parameters={name: parameter.dump() for name, parameter in spec.parameters.items()},
        history=[HistoryPoint(**point) for point in plots.history(spec.objective, found)],
        curves=[Curve(**curve) for curve in plots.curves(found)],
        coordinates=[Coordinates(**one) for one in plots.coordinates(found)],
    )


@_routes.get("/{name}/importances", summary="How much parameters mattered", operation_id="sweepImportances")
def importances_of(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> Importances:
    """By PED-ANOVA, of the complete trials. It takes a second or two when there are more of them than the last time."""
    with context.engine.connect() as connection:
        sweep = named(connection, SWEEP.name, workspace, name)
        found = trials_of(connection, sweep.uid)
    complete = sum(trial.state == "complete" for trial in found)
    shares = importances(sweep.uid, SweepSpec.parse(sweep.spec, at="spec"), found)
    return Importances(importances=dict(shares), complete=complete, needed=FEWEST)


@_routes.post("/{name}/stop", status_code=202, summary="Stop a sweep", operation_id="stopSweep")
def stop(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> SweepDocument:
    """Its trials are ended, and no more are begun. A change, as of `trials` or `budget`, begins it again."""
    with context.engine.begin() as connection:
        sweep = named(connection, SWEEP.name, workspace, name, lock=True)
        phase = sweep.status.get("phase")
        if phase and SweepPhase(phase).terminal:
            raise Conflict(f"the sweep {name} has ended: {phase}", remedy=f"`mw sweep delete {name}` removes it")
        if phase != SweepPhase.STOPPING:
            events.append(connection, sweep.ref, sweep.uid, STOP_REQUESTED, "stop requested")
        resources.wake(connection, [sweep.uid])
    return SweepDocument.model_validate(sweep.document())
