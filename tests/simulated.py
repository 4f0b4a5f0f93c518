"""A model of the world that carries a decision's actions out at once, for tests of pure decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from modelworks.kernel.decision import (
    Claim,
    Decision,
    EnsureKey,
    EnsureRun,
    EnsureSecret,
    ForgetRun,
    PublishRoute,
    RecordRevision,
    Release,
    Remove,
    RemoveKey,
    RemoveObjects,
    Reserve,
    StopRun,
    Transfer,
    WithdrawRoute,
)
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import RunObservation, RunPhase, RunReason, RunSpec
from modelworks.kernel.traffic import Traffic
from modelworks.products.kind import ClaimView

NODE = "node-a"
START = 1_700_000_000.0


@dataclass
class World:
    """``room`` claims fit; a claim beyond waits. Runs move only when a test moves them."""

    room: int = 1000
    now: float = START
    runs: dict[str, RunObservation] = field(default_factory=dict)
    specs: dict[str, RunSpec] = field(default_factory=dict)
    claims: dict[str, ClaimView] = field(default_factory=dict)
    claimed: dict[str, Claim] = field(default_factory=dict)
    released: dict[str, float | None] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    graces: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, RunReason] = field(default_factory=dict)
    slow_to_end: bool = False  # runs that are stopped go on until a test ends them
    route: dict[str, Any] | None = None
    token: bool = False
    api_key: str | None = None
    emptied: list[str] = field(default_factory=list)
    removed: bool = False
    traffic: Traffic = field(default_factory=Traffic)
    revisions: dict[str, int] = field(default_factory=dict)

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    def act(self, decision: Decision) -> None:
        """Carry every action out; twice does what once does."""
        for action in decision.actions:
            match action:
                case Reserve(claims):
                    for claim in claims:
                        self._reserve(claim)
                case Release(key, ended_at):
                    if self.claims.pop(key, None) is not None:
                        self.released[key] = ended_at
                case EnsureRun(node, run, epoch):
                    assert epoch in ("", self.api_key), f"{run.key} would start with a key that opens nothing"
                    self._ensure(node, run)
                case EnsureKey(epoch):
                    self.api_key = epoch
                case RemoveKey():
                    assert not self.live, "a job that runs loses its key"
                    self.api_key = None
                case Transfer(key, claim):
                    self._transfer(key, claim)
                case StopRun(_, key, grace, reason):
                    self._stop(key, grace, reason)
                case ForgetRun(_, key):
                    if key in self.runs:
                        assert self.runs[key].phase.ended, f"{key} is forgotten while it lives"
                        del self.runs[key]
                case PublishRoute(_, _, route):
                    self.route = dict(route)
                case WithdrawRoute():
                    self.route = None
                case RecordRevision(revision):
                    self.revisions.setdefault(revision, len(self.revisions) + 1)
                case EnsureSecret():
                    self.token = True
                case RemoveObjects(uri):
                    assert not self.live, "a log that is still written is removed"
                    self.emptied.append(uri)
                case Remove():
                    assert not self.runs
                    assert not self.claims
                    self.removed = True
                case _:
                    pass
        self.admit()

    def _reserve(self, claim: Claim) -> None:
        self.claimed[claim.key] = claim
        if claim.key not in self.claims:
            view = ClaimView(claim.key, claim.gang, None, "", self.time, None)
            self.claims[claim.key] = view

    def admit(self) -> None:
        """Place waiting gangs, oldest first, each whole or not at all; optional claims one by one."""
        waiting = [claim for claim in self.claims.values() if claim.node is None]
        gangs = dict.fromkeys((claim.gang, "") for claim in waiting if not self._optional(claim))
        alone = dict.fromkeys((claim.gang, claim.key) for claim in waiting if self._optional(claim))
        for gang, alone_key in (*gangs, *alone):
            members = [
                claim
                for claim in waiting
                if (claim.key == alone_key if alone_key else claim.gang == gang and not self._optional(claim))
            ]
            placed = sum(claim.node is not None for claim in self.claims.values())
            if alone_key and any(
                claim.gang == gang and claim.node is None and not self._optional(claim)
                for claim in self.claims.values()
            ):
                continue  # the rest of its gang comes first
            for claim in members:
                fits = placed + len(members) <= self.room
                reason = "" if fits else f"waits for capacity: {placed} of {self.room} places are taken"
                self.claims[claim.key] = replace(
                    claim, node=NODE if fits else None, reason=reason, placed_at=self.time if fits else None
                )

    def _optional(self, claim: ClaimView) -> bool:
        return claim.key in self.claimed and self.claimed[claim.key].optional

    def _ensure(self, node: str, run: RunSpec) -> None:
        if run.key in self.runs:
            return
        assert self.claims[run.key].node == node, f"{run.key} starts where it has no room"
        self.starts.append(run.key)
        self.specs[run.key] = run
        self.runs[run.key] = RunObservation(
            key=run.key, phase=RunPhase.PREPARING, message="building environment", node=node, created_at=self.now
        )

    def _stop(self, key: str, grace: float, reason: str) -> None:
        run = self.runs.get(key)
        if run is None or run.phase.ended:
            return
        if key not in self.graces:
            self.stops.append(key)
            self.reasons[key] = RunReason(reason) if reason in set(RunReason) else RunReason.STOPPED
        self.graces[key] = min(grace, self.graces.get(key, grace))
        if not self.slow_to_end:
            self.end(key, self.reasons[key], 143)

    def _transfer(self, key: str, claim: Claim) -> None:
        view = self.claims.pop(key, None)
        if view is not None and view.node is not None:
            self.claimed[claim.key] = claim
            self.claims[claim.key] = ClaimView(claim.key, claim.gang, view.node, "", view.created_at, self.time)

    def evict(self, key: str, notice: float, reason: str = "node node-a is drained") -> None:
        """A placed claim is to be given back."""
        self.claims[key] = replace(self.claims[key], evict_at=self.now + notice, evict_reason=reason)

    @property
    def live(self) -> list[str]:
        return [key for key, run in self.runs.items() if not run.phase.ended]

    def start(self, key: str, *, ready: bool = False) -> None:
        """PREPARING → RUNNING; a replica with its address once it is ready."""
        self._change(
            key,
            phase=RunPhase.RUNNING,
            started_at=self.runs[key].started_at or self.now,
            message="",
            ready=ready,
            address=f"unix:/run/{key.replace('/', '-')}.sock" if ready else None,
        )

    def end(self, key: str, reason: RunReason = RunReason.COMPLETED, code: int | None = 0, message: str = "") -> None:
        self._change(
            key,
            phase=RunPhase.LOST if reason is RunReason.LOST else RunPhase.EXITED,
            reason=reason,
            exit_code=None if reason is RunReason.LOST else code,
            exited_at=None if reason is RunReason.LOST else self.now,
            message=message,
            ready=False,
            address=None,
        )

    def finalize(self, key: str) -> None:
        self._change(key, phase=RunPhase.FINALIZING, exited_at=self.now, exit_code=0)

    def _change(self, key: str, **fields: Any) -> None:
        self.runs[key] = self.runs[key].model_copy(update=fields)


Pass = Callable[[Resource, World], Decision]


@dataclass
class Loop:
    """Passes over one resource, as the reconciler makes them."""

    resource: Resource
    world: World
    decide: Pass

    def step(self, *, crash: bool = False) -> Decision:
        """One pass; with ``crash`` its actions are carried out and its status is lost."""
        decision = self.decide(self.resource, self.world)
        self.world.act(decision)
        if not crash:
            self.resource = replace(self.resource, status=dict(decision.status))
        return decision

    def settle(self, limit: int = 30) -> Decision:
        """Pass until nothing changes any more at this moment."""
        for _ in range(limit):
            before, told = self.resource.status, dict(self.world.graces)
            decision = self.step()
            # A stop is wished for until it is done.
            again = all(isinstance(one, StopRun) and one.key in told for one in decision.actions)
            if again and decision.status == before:
                return decision
        raise AssertionError(f"no rest after {limit} passes: {decision}")

    def pass_time(self, seconds: float) -> Decision:
        self.world.now += seconds
        self.world.admit()
        return self.settle()

    @property
    def status(self) -> dict[str, Any]:
        return self.resource.status
