"""A Runtime in memory, for tests of what stands above: time is the test's, and outcomes are scripted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from modelworks.kernel.errors import Conflict, NotFound, Unavailable
from modelworks.kernel.run import NodeObservation, Resources, RunObservation, RunPhase, RunReason, RunSpec


@dataclass(frozen=True)
class Outcome:
    """What a run will do. Times in seconds after the phase before; ``duration`` None runs until it is stopped."""

    prepare: float = 0.0
    duration: float | None = None
    exit_code: int = 0
    log: bytes = b""
    ready_after: float | None = 0.0
    ignores_sigterm: bool = False
    stacks: str = "process 1 `fake`: sleeping"


@dataclass
class _Run:
    spec: RunSpec
    outcome: Outcome
    seen: RunObservation
    log: bytes = b""
    stop_at: float | None = None  # when it will have ended by a stop
    stop_reason: RunReason = RunReason.NONE
    stop_message: str = ""
    samples: list[dict[str, float]] = field(default_factory=list)
    until: float | None = None  # its lease


class FakeRuntime:
    """``advance`` moves the clock and lets happen what is due. ``reachable = False`` makes every call Unavailable."""

    def __init__(
        self,
        node: NodeObservation | None = None,
        outcome: Callable[[RunSpec], Outcome] = lambda spec: Outcome(),
        now: float = 1_700_000_000.0,
    ) -> None:
        self.now = now
        self.reachable = True
        self._node = node or NodeObservation(name="fake", capacity=Resources(cpu="8", memory="16Gi"))
        self._outcome = outcome
        self._runs: dict[str, _Run] = {}
        self._cursor = 0
        self._changed: dict[str, int] = {}
        self._given: dict[str, float] = {}  # challenge → when

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._settle()

    def lose(self, key: str) -> None:
        """The run's supervisor is killed: nobody knows how it ended."""
        run = self._runs[key]
        self._end(run, RunPhase.LOST, RunReason.LOST, None, "its end is not known")

    def node(self) -> NodeObservation:
        self._reach()
        return self._node

    def ensure(self, run: RunSpec) -> RunObservation:
        self._reach()
        if run.key not in self._runs:
            seen = RunObservation(key=run.key, phase=RunPhase.PREPARING, node=self._node.name, created_at=self.now)
            until = None
            if run.lease is not None:
                until = self._given.get(run.challenge, -run.lease) + run.lease
                if until <= self.now:
                    raise Unavailable(f"run {run.key} is to begin under a lease that this node does not hold")
            self._runs[run.key] = _Run(run, self._outcome(run), seen, until=until)
            self._mark(run.key)
            self._settle()
        return self._runs[run.key].seen

    def challenge(self) -> str:
        self._reach()
        word = f"word-{len(self._given)}"
        self._given[word] = self.now
        return word

    def renew(self, challenge: str) -> None:
        self._reach()
        if challenge not in self._given:
            raise Conflict("this challenge was not given by this node")
        for run in self._runs.values():
            if run.spec.lease is not None and run.until is not None and self.now < run.until:
                run.until = max(run.until, self._given[challenge] + run.spec.lease)

    def stop(self, key: str, grace: float, reason: str = "Stopped", message: str = "") -> None:
        self._reach()
        run = self._runs.get(key)
        if run is None or run.seen.phase.ended:
            return
        at = self.now + (grace if run.outcome.ignores_sigterm else 0.0)
        run.stop_at = at if run.stop_at is None else min(run.stop_at, at)
        if run.stop_reason is RunReason.NONE:
            run.stop_reason = RunReason(reason) if reason in set(RunReason) else RunReason.STOPPED
            run.stop_message = message
        self._settle()

    def observe(self, prefix: str = "") -> Sequence[RunObservation]:
        self._reach()
        return [run.seen for key, run in sorted(self._runs.items()) if key.startswith(prefix)]

    def changes(self, since: int, timeout: float) -> tuple[int, Sequence[str]]:
        """Never waits: in a test's time nothing happens meanwhile."""
        self._reach()
        return self._cursor, [key for key, at in self._changed.items() if at > since]

    def log(self, key: str, offset: int = 0, limit: int = 1 << 20, part: str = "log") -> bytes:
        self._reach()
        return self._run(key).log[offset : offset + limit] if part == "log" else b""

    def metrics(self, key: str) -> Iterator[dict[str, float]]:
        self._reach()
        return iter(list(self._run(key).samples))

    def stacks(self, key: str, record: bool = False) -> str:
        self._reach()
        run = self._run(key)
        if run.seen.phase is not RunPhase.RUNNING:
            raise Conflict(f"run {key} has no process")
        if record:
            run.log += b"modelworks: " + run.outcome.stacks.encode() + b"\n"
        return run.outcome.stacks

    def forget(self, key: str) -> None:
        self._reach()
        run = self._runs.get(key)
        if run is None:
            return
        if not run.seen.phase.ended:
            raise Conflict(f"run {key} has not ended", remedy="stop it first")
        del self._runs[key]
        self._mark(key)

    def _reach(self) -> None:
        if not self.reachable:
            raise Unavailable(f"node {self._node.name} does not answer", retry_after=1.0)

    def _run(self, key: str) -> _Run:
        if key not in self._runs:
            raise NotFound(f"there is no run {key} on this node")
        return self._runs[key]

    def _settle(self) -> None:
        for run in self._runs.values():
            before = run.seen
            self._step(run)
            if run.seen != before:
                self._mark(run.spec.key)

    def _step(self, run: _Run) -> None:
        if run.until is not None and self.now >= run.until and not run.seen.phase.ended:
            code = 143 if run.seen.started_at is not None else None
            self._end(run, RunPhase.EXITED, RunReason.LEASE_EXPIRED, code, "cut off from the controller")
            return
        if run.seen.phase is RunPhase.PREPARING:
            if run.stop_at is not None:
                self._end(run, RunPhase.EXITED, run.stop_reason, None, run.stop_message or "stopped before it started")
                return
            begin = run.seen.created_at + run.outcome.prepare
            if self.now < begin:
                return
            run.log = run.outcome.log
            changes = {"phase": RunPhase.RUNNING, "started_at": begin, "pid": 1000 + len(self._runs)}
            run.seen = run.seen.model_copy(update=changes | {"log_bytes": len(run.log)})
        if run.seen.phase is RunPhase.RUNNING:
            self._step_running(run, run.seen.started_at or 0.0)

    def _step_running(self, run: _Run, began: float) -> None:
        outcome = run.outcome
        ends = None if outcome.duration is None else began + outcome.duration
        if run.stop_at is not None and self.now >= run.stop_at and (ends is None or run.stop_at < ends):
            code = 137 if outcome.ignores_sigterm else 143
            self._end(run, RunPhase.EXITED, run.stop_reason, code, run.stop_message or "stopped")
        elif ends is not None and self.now >= ends:
            good = outcome.exit_code == 0
            reason = RunReason.COMPLETED if good else RunReason.FAILED
            self._end(run, RunPhase.EXITED, reason, outcome.exit_code, "" if good else f"exit code {outcome.exit_code}")
        elif run.spec.listen and outcome.ready_after is not None and self.now >= began + outcome.ready_after:
            run.seen = run.seen.model_copy(update={"ready": True, "address": f"unix:/fake/{run.spec.key}"})

    def _end(self, run: _Run, phase: RunPhase, reason: RunReason, code: int | None, message: str) -> None:
        bad = reason is not RunReason.COMPLETED
        lines = tuple(run.log.decode(errors="replace").splitlines()[-50:]) if bad else ()
        run.seen = run.seen.model_copy(
            update={
                "phase": phase,
                "reason": reason,
                "message": message,
                "exited_at": self.now,
                "exit_code": code,
                "signal": code - 128 if code is not None and code > 128 else None,
                "ready": False,
                "address": None,
                "last_lines": lines,
            }
        )
        self._mark(run.spec.key)

    def _mark(self, key: str) -> None:
        self._cursor += 1
        self._changed[key] = self._cursor


def scripted(outcomes: dict[str, Outcome], default: Outcome | None = None) -> Callable[[RunSpec], Outcome]:
    """Outcomes by run key; ``default`` for the others."""
    fallback = default or Outcome()
    return lambda spec: replace(outcomes.get(spec.key, fallback))
