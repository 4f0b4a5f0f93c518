"""A controller, nodes and the network between them under a simulated clock, made of the code that keeps real leases.

Messages arrive late, or not at all; a cut link holds them until it is healed. Controller and agents are killed, and
agents hang with what they were told in their hands. One job wants to be at work, and starts elsewhere once it is lost.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from modelworks.agent import lease as agent_lease
from modelworks.agent.lease import Challenges, RunLease
from modelworks.control.fleet import Fleet
from modelworks.control.leases import Tenure
from modelworks.kernel.errors import Conflict, Unavailable
from modelworks.kernel.run import RunObservation, RunPhase, RunReason, RunSpec
from modelworks.runtime.base import Runtime
from modelworks.runtime.rundir import RunDirectory

LEASE = 15.0
UID = "job123"
STOPPING = 3.0  # a shim looks once a second, and SIGKILL follows SIGTERM after two
_TICK = 0.25


@dataclass
class Workload:
    """What a shim holds: it needs no agent, and reads the lease of its run."""

    key: str
    lease: RunLease
    over_at: float | None = None

    def at_work(self, now: float) -> bool:
        return self.over_at is None or now < self.over_at + STOPPING


@dataclass
class Node:
    name: str
    folder: Path
    challenges: Challenges
    workloads: dict[str, Workload] = field(default_factory=dict)
    runs: dict[str, RunObservation] = field(default_factory=dict)
    linked: bool = True
    hangs: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)


class World:
    """``at_work`` after every tick is what must never hold two attempts."""

    def __init__(self, folder: Path, random: Random, count: int = 3) -> None:
        self.now = 1000.0
        self.random = random
        self.attempt, self.place = 1, "n0"  # what the database holds
        self.starts = 0
        self._folder = folder
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.nodes = {f"n{i}": self._node(f"n{i}") for i in range(count)}
        self.life = 0  # of the controller; odd while it is down
        self._begin()

    def clock(self) -> float:
        return self.now

    def _node(self, name: str) -> Node:
        return Node(name, self._folder, Challenges(self.clock))

    # -- the network ---------------------------------------------------------------------------------------------

    def _send(self, node: Node, deliver: Callable[[], None], *, to_agent: bool) -> None:
        """After a while, or never; a cut link and a process that hangs keep it until they are back."""
        if self.random.random() < 0.1:
            return
        slow = self.random.random() < 0.1
        at = self.now + (self.random.uniform(0, 40) if slow else self.random.uniform(0, 0.5))

        def arrive() -> None:
            if not node.linked or (to_agent and node.hangs):
                node.held.append(arrive)
            else:
                deliver()

        heapq.heappush(self._queue, (at, next(self._order), arrive))

    def _release(self, node: Node) -> None:
        held, node.held = node.held, []
        for arrive in held:
            arrive()

    # -- what happens to them ------------------------------------------------------------------------------------

    def cut(self, name: str) -> None:
        self.nodes[name].linked = False

    def heal(self, name: str) -> None:
        self.nodes[name].linked = True
        self._release(self.nodes[name])

    def hang(self, name: str) -> None:
        self.nodes[name].hangs = True

    def resume(self, name: str) -> None:
        self.nodes[name].hangs = False
        self._release(self.nodes[name])

    def kill_agent(self, name: str) -> None:
        """The next one finds the runs on disk, and knows no challenge."""
        node = self.nodes[name]
        node.challenges, node.hangs, node.held = Challenges(self.clock), False, []

    def kill_controller(self, _: str) -> None:
        self.life += self.life % 2 == 0

    def start_controller(self, _: str) -> None:
        if self.life % 2:
            self.life += 1
            self._begin()

    def _begin(self) -> None:
        self.fleet = Fleet(expected=0)
        self.tenures = {name: Tenure(LEASE, self.now) for name in self.nodes}
        for name in self.nodes:
            self.fleet.expect(name, Tenure(LEASE, self.now))

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self.now += _TICK
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for node in self.nodes.values():
            self._shims(node)
        if self.life % 2 == 0:
            self._control()

    def at_work(self) -> set[str]:
        return {w.key for node in self.nodes.values() for w in node.workloads.values() if w.at_work(self.now)}

    def _shims(self, node: Node) -> None:
        for workload in node.workloads.values():
            if workload.over_at is None and workload.lease.over:
                workload.over_at = self.now
            if not workload.at_work(self.now) and not node.runs[workload.key].phase.ended:
                ended = {"phase": RunPhase.EXITED, "reason": RunReason.LEASE_EXPIRED, "exited_at": self.now}
                node.runs[workload.key] = node.runs[workload.key].model_copy(update=ended)

    # -- the agent -----------------------------------------------------------------------------------------------

    def _ensure(self, node: Node, spec: RunSpec) -> None:
        if spec.key in node.runs:
            return
        try:
            until = node.challenges.admit(spec)
        except Unavailable:
            return
        assert until is not None
        directory = RunDirectory(node.folder / f"{node.name}-{spec.key.replace('/', '-')}")
        directory.path.mkdir()
        agent_lease.write(directory.path, until)
        node.workloads[spec.key] = Workload(spec.key, RunLease(directory, spec.lease, self.clock))
        node.runs[spec.key] = RunObservation(
            key=spec.key, phase=RunPhase.RUNNING, node=node.name, created_at=self.now, started_at=self.now
        )
        self.starts += 1

    def _renew(self, node: Node, word: str) -> None:
        try:
            given = node.challenges.given(word)
        except Conflict:
            return
        for workload in node.workloads.values():
            if workload.over_at is None:
                workload.lease.extend(given)

    # -- the controller ------------------------------------------------------------------------------------------

    def _control(self) -> None:
        for name, node in self.nodes.items():
            if self.random.random() < 0.3:
                self._look(node)
            if self.fleet.tenure(name) is self.tenures[name] and self.random.random() < 0.3:
                self._keep(node)
        for member in self.fleet.members().values():
            if member.tenure is not None and not member.picture.lost and member.tenure.over(self.now):
                member.picture.lose(self.now)
        self._decide()

    def _back(self, node: Node, life: int, then: Callable[[], None]) -> None:
        """An answer, which only the controller that asked can take."""
        self._send(node, lambda: then() if self.life == life else None, to_agent=False)

    def _look(self, node: Node) -> None:
        life, tenure, asked_at = self.life, self.tenures[node.name], self.now
        known = self.fleet.members().get(node.name)
        begun = known.picture.begin() if known else 0

        def asked() -> None:
            runs = list(node.runs.values())
            self._back(node, life, lambda: told(runs))

        def told(runs: list[RunObservation]) -> None:
            picture = self.fleet.join(node.name, _DOOR, tenure)
            tenure.heard(asked_at)
            picture.replace_all(begun, runs)

        self._send(node, asked, to_agent=True)

    def _keep(self, node: Node) -> None:
        life, tenure = self.life, self.tenures[node.name]

        def asked() -> None:
            word = node.challenges.give()
            self._back(node, life, lambda: answered(word))

        def answered(word: str) -> None:
            tenure.sent(word, self.now)
            self._send(node, lambda: self._renew(node, word), to_agent=True)

        self._send(node, asked, to_agent=True)

    def _decide(self) -> None:
        key = f"{UID}/a{self.attempt}/0/0"
        try:
            runs = {run.key: run for run in self.fleet.runs(UID, [self.place])}
        except Unavailable:
            return
        if key not in runs and self.fleet.lost(self.place):
            lost = self.fleet.lose_claim(self.place, key, self.now)
            assert lost is not None
            runs[key] = lost
        if any(not run.phase.ended for other, run in runs.items() if other != key):
            return
        if key in runs:
            if runs[key].phase.ended:
                others = [name for name in self.nodes if name != self.place and not self.fleet.lost(name)]
                self.attempt, self.place = self.attempt + 1, self.random.choice(others or [self.place])
            return
        spec = RunSpec(key=key, workspace="default", kind="TrainingJob", name="job", command=("true",))
        node = self.nodes[self.place]
        try:
            self.fleet.runtime(self.place)
            spec = self.fleet.leased(self.place, spec)
        except Unavailable:
            return
        self._send(node, lambda: self._ensure(node, spec), to_agent=True)


_DOOR: Runtime = object()  # type: ignore[assignment]
