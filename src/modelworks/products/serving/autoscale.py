"""The autoscaler's place in a pass over a service: what it reads of the observation, and what it leaves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelworks.kernel.decision import Action, Emit, RecordScale
from modelworks.kernel.events import Level
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import Resources, RunObservation
from modelworks.kernel.traffic import Traffic
from modelworks.products.serving.alerts import Judged, judge
from modelworks.products.serving.demand import Reading, readings
from modelworks.products.serving.observe import Observed
from modelworks.products.serving.record import Record
from modelworks.products.serving.runs import Service
from modelworks.products.serving.scale import Scaled, State, first_replicas, step
from modelworks.products.serving.slots import serving
from modelworks.products.serving.spec import ServiceSpec


@dataclass(frozen=True)
class Look:
    """One look of the autoscaler, and what it was made from. ``ready`` counts the replicas that serve."""

    scaled: Scaled
    readings: tuple[Reading, ...]
    ready: int
    current: int


@dataclass(frozen=True)
class Autoscaled:
    """``scale`` is the record's new one, empty for a service that nothing scales."""

    scale: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    wake_in: float | None = None
    recommended: int = 0


def autoscaled(resource: Resource, before: Record, observed: Observed, now: float) -> Autoscaled:
    """What is wanted from now on. A stopped service forgets: it begins with its first number when it is started."""
    service = Service.of(resource)
    found = look(service.spec, service.resolved, before, observed, now)
    if found is None:
        return Autoscaled()
    actions: list[Action] = []
    change = found.scaled.change
    if change is not None:
        actions.append(RecordScale(change.before, change.after, change.reason, change.numbers))
        if change.reason != "Initial":
            said = f"{change.before} → {change.after} replicas: {change.numbers['why']}"
            actions.append(Emit("Scaled", said, data={"reason": change.reason, **change.numbers}))
    return Autoscaled(found.scaled.state.document(), tuple(actions), found.scaled.wake_in, found.scaled.recommended)


def judged_alerts(spec: ServiceSpec, record: Record, scaled: Autoscaled, traffic: Traffic, now: float) -> Judged:
    """The alerts of this pass."""
    scaling, at_max = spec.autoscaling, ""
    if scaling is not None and scaling.min < scaling.max == scaled.scale.get("replicas"):
        wanted = scaled.recommended
        at_max = f"{wanted} replicas are wanted and max is {scaling.max}" if wanted >= scaling.max else ""
    stopped = spec.stopped or (scaling is None and spec.replicas == 0)
    return judge(spec.alerts, record.alerts, traffic, at_max, now, stopped=stopped)


def told_alerts(before: Record, judged: Judged) -> list[Action]:
    """Events of the alerts that began and ended."""
    began = [Emit(name, judged.breaches[name].message, Level.WARNING) for name in judged.began]
    return [*began, *(Emit(f"{name}Ended", f"it is over: {before.alerts[name].message}") for name in judged.ended)]


def look(spec: ServiceSpec, resolved: Mapping[str, Any], before: Record, observed: Observed, now: float) -> Look | None:
    """None for a service that is stopped or not autoscaled."""
    scaling = spec.autoscaling
    if scaling is None or spec.stopped:
        return None
    state = State.of(before.scale)
    ready = serving_runs(before, observed)
    current = min(max(state.replicas if state else first_replicas(scaling), scaling.min), scaling.max)
    found = readings(
        scaling.metrics,
        observed.traffic,
        ready,
        Resources.parse(resolved.get("resources") or {}),
        current,
        now,
        tolerance=scaling.tolerance,
        starting=len(ready) < current,
    )
    return Look(step(scaling, state, found, observed.traffic, len(ready), now), found, len(ready), current)


def serving_runs(record: Record, observed: Observed) -> list[RunObservation]:
    """The replicas that get requests."""
    return [run for run in observed.runs if serving(run) and run.key not in record.draining]
