"""A small product for tests of the control plane, and a runtime in memory.

A ``Sample`` claims one place, starts one run there and is ``Done`` when the run has ended; a ``Note`` is data only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import Field

from modelworks.kernel.decision import (
    Action,
    Claim,
    Decision,
    Emit,
    EnsureRun,
    EnsureSecret,
    ForgetRun,
    Meter,
    PublishRoute,
    Release,
    Remove,
    Reserve,
    StopRun,
)
from modelworks.kernel.errors import Conflict, FieldError, Invalid, NotFound, Unavailable
from modelworks.kernel.resource import Metadata, Resource
from modelworks.kernel.run import NodeObservation, Resources, RunObservation, RunPhase, RunSpec
from modelworks.kernel.spec import Spec
from modelworks.products.kind import ClaimView, Kind, Lookup, Resolved, World

NODE = "node-a"


class SampleSpec(Spec):
    command: str = "true"
    replicas: int = Field(default=1, ge=0)
    note: str | None = None
    size: int = 1
    volumes: tuple[dict[str, str], ...] = ()


class NoteSpec(Spec):
    text: str = ""


@dataclass(frozen=True)
class Observed:
    runs: Sequence[RunObservation]
    claims: Sequence[ClaimView]


def resolve(metadata: Metadata, spec: SampleSpec, lookup: Lookup) -> Resolved:
    if spec.note is None:
        return Resolved()
    note = lookup.resource(metadata.workspace, "Note", spec.note)
    if note is None:
        raise Invalid(f"there is no note {spec.note}", fields=(FieldError("spec.note", "no such note"),))
    return Resolved({"text": note.spec["text"]}, (f"uses note {spec.note}",))


def observe(resource: Resource, world: World) -> Observed:
    return Observed(world.runs(resource.uid), world.claims(resource.uid))


def decide(resource: Resource, observed: Observed, now: datetime) -> Decision:
    key = f"{resource.uid}/a1/0/0"
    runs = {run.key: run for run in observed.runs}
    claims = {claim.key: claim for claim in observed.claims}
    if resource.deleting is not None:
        return _delete(resource, list(runs.values()))
    run, claim = runs.get(key), claims.get(key)
    if resource.status.get("phase") == "Done":
        return Decision(resource.status)
    if run is not None and run.phase.ended:
        actions = [Release(claim.key, run.exited_at) for claim in claims.values()]
        return Decision({"phase": "Done", "message": run.message}, (*actions, Emit("Done", "finished")))
    if run is not None:
        route = {"service": resource.ref.name, "state": "ready"}
        ref = resource.ref
        return Decision(
            {"phase": "Running", "message": ""},
            (PublishRoute(ref.workspace, ref.name, route),) * (resource.status.get("phase") != "Running"),
        )
    if claim is None:
        wish = Claim(key, "a1", Resources(), "local.small", 0.5)
        begin: tuple[Action, ...] = (
            EnsureSecret("token"),
            Meter(f"disk/{resource.uid}", "volume", 2.0, "GiB", 0.1),
            Reserve((wish,)),
        )
        return Decision({"phase": "Pending", "message": "waits"}, begin)
    if claim.node is None:
        return Decision({"phase": "Pending", "message": claim.reason})
    spec = RunSpec(key=key, workspace=resource.ref.workspace, kind="Sample", name=resource.ref.name, command=("true",))
    return Decision({"phase": "Starting", "message": ""}, (EnsureRun(claim.node, spec),))


def _delete(resource: Resource, runs: list[RunObservation]) -> Decision:
    status = {"phase": "Deleting", "message": ""}
    live = [run for run in runs if not run.phase.ended]
    if live:
        return Decision(status, tuple(StopRun(NODE, run.key, 1.0) for run in live), wake_in=5.0)
    if runs:
        return Decision(status, tuple(ForgetRun(NODE, run.key) for run in runs), wake_in=0.0)
    return Decision(status, (Remove(),))


SAMPLE = Kind(
    name="Sample",
    plural="samples",
    spec=SampleSpec,
    resolve=resolve,
    observe=observe,
    decide=decide,
    immutable=("spec.size",),
)
NOTE = Kind(name="Note", plural="notes", spec=NoteSpec)
KINDS = {"Sample": SAMPLE, "Note": NOTE}


def manifest(
    name: str, kind: str = "Sample", labels: dict[str, str] | None = None, **spec: object
) -> dict[str, object]:
    return {
        "apiVersion": "modelworks/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec,
    }


@dataclass
class MemoryRuntime:
    """One node in memory. ``ensured`` records every start that really happened."""

    away: bool = False
    ensured: list[str] = field(default_factory=list)
    before_ensure: Callable[[str], None] = lambda key: None

    def __post_init__(self) -> None:
        self._runs: dict[str, RunObservation] = {}
        self._changes: list[str] = []
        self._condition = threading.Condition()

    def _check(self) -> None:
        if self.away:
            raise Unavailable("the agent is away")

    def node(self) -> NodeObservation:
        self._check()
        return NodeObservation(name=NODE, capacity=Resources.parse({"cpu": "64", "memory": "64Gi"}))

    def ensure(self, run: RunSpec) -> RunObservation:
        self._check()
        self.before_ensure(run.key)
        with self._condition:
            if run.key not in self._runs:
                self.ensured.append(run.key)
                self._set(RunObservation(key=run.key, phase=RunPhase.RUNNING, node=NODE, created_at=time.time()))
            return self._runs[run.key]

    def challenge(self) -> str:
        self._check()
        return "word"

    def renew(self, challenge: str) -> None:
        self._check()

    def stop(self, key: str, grace: float, reason: str = "Stopped", message: str = "") -> None:
        self._check()
        self.end(key)

    def end(self, key: str) -> None:
        with self._condition:
            run = self._runs.get(key)
            if run is not None and not run.phase.ended:
                ended = {"phase": RunPhase.EXITED, "exit_code": 0, "exited_at": time.time(), "message": "exit code 0"}
                self._set(run.model_copy(update=ended))

    def observe(self, prefix: str = "") -> Sequence[RunObservation]:
        self._check()
        with self._condition:
            return [run for key, run in self._runs.items() if key.startswith(prefix)]

    def changes(self, since: int, timeout: float) -> tuple[int, Sequence[str]]:
        self._check()
        with self._condition:
            # Bounded, so that a test's observer ends soon after it.
            self._condition.wait_for(lambda: self.away or len(self._changes) > since, min(timeout, 0.1))
            self._check()
            return len(self._changes), tuple(dict.fromkeys(self._changes[since:]))

    def log(self, key: str, offset: int = 0, limit: int = 1 << 20, part: str = "log") -> bytes:
        raise NotFound(f"no run {key}")

    def metrics(self, key: str) -> Iterator[dict[str, float]]:
        return iter(())

    def stacks(self, key: str, record: bool = False) -> str:
        return "process 1 `memory`: sleeping"

    def forget(self, key: str) -> None:
        self._check()
        with self._condition:
            run = self._runs.get(key)
            if run is not None and not run.phase.ended:
                raise Conflict(f"{key} has not ended")
            if self._runs.pop(key, None):
                self._changes.append(key)
                self._condition.notify_all()

    def go_away(self, away: bool = True) -> None:
        with self._condition:
            self.away = away
            self._condition.notify_all()

    def _set(self, run: RunObservation) -> None:
        self._runs[run.key] = run
        self._changes.append(run.key)
        self._condition.notify_all()
