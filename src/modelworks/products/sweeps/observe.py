"""What a decision about a sweep sees of the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelworks.kernel.resource import Resource
from modelworks.products.kind import World
from modelworks.products.sweeps import queries


@dataclass(frozen=True)
class Trial:
    """One trial as it is kept. ``step`` is the last one reported; ``prune``: the algorithm wants it to end."""

    number: int
    parameters: Mapping[str, Any]
    state: str
    value: float | None = None
    step: int | None = None
    prune: bool = False

    @property
    def ended(self) -> bool:
        return self.state != "running"


@dataclass(frozen=True)
class Child:
    """A trial's job. ``progress`` is what its status says of it."""

    name: str
    phase: str = ""
    message: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)
    deleting: bool = False


@dataclass(frozen=True)
class SweepObserved:
    """``children`` are by name: the jobs of trials that have not ended; of a sweep that is being deleted, all.

    ``last_stop`` numbers the last wish for the end; 0: there was none. ``costs`` is money until now, by the names of
    the trials' jobs; of a sweep without a budget, nothing. ``taken`` are names of trials' jobs that others have.
    """

    trials: tuple[Trial, ...] = ()
    children: Mapping[str, Child] = field(default_factory=dict)
    last_stop: int = 0
    costs: Mapping[str, float] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()


def observe(resource: Resource, world: World) -> SweepObserved:
    connection = world.connection
    trials = tuple(
        Trial(one.number, one.parameters, one.state, one.value, one.step, one.prune)
        for one in queries.trials(connection, resource.uid)
    )
    names = None
    if resource.deleting is None:
        names = [job_name(resource.ref.name, trial.number) for trial in trials if not trial.ended]
    children = {
        name: Child(
            name, str(status.get("phase", "")), str(status.get("message", "")), status.get("progress") or {}, deleting
        )
        for name, status, deleting in queries.jobs(connection, resource, names)
    }
    taken = queries.taken(connection, resource, [name for name in names or () if name not in children])
    costs: Mapping[str, float] = {}
    if resource.spec.get("budget") is not None:
        costs = queries.costs(connection, resource, [job_name(resource.ref.name, trial.number) for trial in trials])
    return SweepObserved(trials, children, queries.last_stop(connection, resource.uid), costs, taken)


def job_name(sweep: str, number: int) -> str:
    """The name of a trial's job."""
    return f"{sweep}-{number}"
