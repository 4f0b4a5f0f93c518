"""The fleet: every node's runs as last seen, kept in memory, so that a pass over a resource asks nobody.

A node's picture is complete or it does not count: while a node cannot be asked, what it holds is unknown, and unknown
is never taken for gone. Only where runs live by leases silence has an end: once the node's lease is over for certain,
its runs have ended too, and are told of as lost until the node tells of them itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

from modelworks.control.leases import Tenure, boottime
from modelworks.kernel.errors import Unavailable
from modelworks.kernel.run import RunObservation, RunPhase, RunReason, RunSpec
from modelworks.runtime.base import Runtime

_RETRY_AFTER = 1.0
CUT_OFF = "is cut off: what it ran has ended with its lease"
MOVED = "takes no work any more, since the platform has moved to a cluster: what it ran has ended"


class Picture:
    """One node's runs. Thread-safe: its observer replaces what it saw, while workers add what they started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, dict[str, RunObservation]] = {}  # uid → key → run
        self._added: dict[str, int] = {}  # key → when a worker added it, on the counter below
        self._counter = 0
        self._complete = False
        self._lost: tuple[int, float, str] | None = None  # on the counter, in Unix seconds, and why

    @property
    def complete(self) -> bool:
        """Whether it is known what the node holds."""
        return self._complete

    @property
    def lost(self) -> bool:
        """Whether nothing that the node held can live any more, since its lease is over."""
        return self._lost is not None

    def begin(self) -> int:
        """Call before asking the node: what is added from now on may be missing in its answer."""
        with self._lock:
            return self._counter

    def replace_all(self, begun: int, runs: Sequence[RunObservation]) -> set[str]:
        """All that the node has; returns the uids it has or had."""
        with self._lock:
            if self._lost is not None and begun < self._lost[0]:
                return set()  # an answer from before
            touched = set(self._runs)
            fresh: dict[str, dict[str, RunObservation]] = {}
            for run in runs:
                fresh.setdefault(_uid(run.key), {})[run.key] = run
            for uid in touched:
                self._keep_added(begun, uid, fresh.setdefault(uid, {}))
            self._runs = {uid: found for uid, found in fresh.items() if found}
            self._forget_additions(begun)
            self._complete, self._lost = True, None
            return touched | set(fresh)

    def replace(self, begun: int, uid: str, runs: Sequence[RunObservation]) -> None:
        """All that the node has of one resource; of a lost node all has to be seen first."""
        with self._lock:
            if self._lost is not None:
                return
            fresh = {run.key: run for run in runs}
            self._keep_added(begun, uid, fresh)
            self._runs[uid] = fresh
            if not fresh:
                del self._runs[uid]

    def add_lost(self, run: RunObservation) -> RunObservation | None:
        """A run that had room here and may never have begun: it ended with the lease. None when the node is back."""
        with self._lock:
            if self._lost is None:
                return None
            return self._runs.setdefault(_uid(run.key), {}).setdefault(
                run.key, _lost(run, self._lost[1], self._lost[2])
            )

    def add(self, run: RunObservation) -> None:
        """A run that was just ensured. What the observer saw of it meanwhile is as new, or newer, and stays."""
        with self._lock:
            self._counter += 1
            if self._lost is not None:
                run = _lost(run, self._lost[1], self._lost[2])
            else:
                self._added[run.key] = self._counter
            self._runs.setdefault(_uid(run.key), {}).setdefault(run.key, run)

    def drop(self, key: str) -> None:
        """A run that was just forgotten."""
        with self._lock:
            self._added.pop(key, None)
            self._runs.get(_uid(key), {}).pop(key, None)

    def away(self) -> None:
        """The node does not answer: what it holds is unknown, unless its lease is over."""
        with self._lock:
            self._complete = self._lost is not None

    def lose(self, at: float, why: str = CUT_OFF) -> set[str]:
        """The lease is over, at ``at`` (Unix seconds): all that lived has ended. Returns the uids it had."""
        with self._lock:
            self._counter += 1
            self._complete, self._lost = True, (self._counter, at, why)
            self._added.clear()
            for runs in self._runs.values():
                runs.update({key: _lost(run, at, why) for key, run in runs.items()})
            return set(self._runs)

    def of(self, uid: str) -> list[RunObservation]:
        with self._lock:
            return list(self._runs.get(uid, {}).values())

    def holds(self, key: str) -> bool:
        with self._lock:
            return key in self._runs.get(_uid(key), {})

    def uids(self) -> set[str]:
        """Whose runs the node holds."""
        with self._lock:
            return set(self._runs)

    def _keep_added(self, begun: int, uid: str, fresh: dict[str, RunObservation]) -> None:
        for key, run in self._runs.get(uid, {}).items():
            if self._added.get(key, 0) > begun:
                fresh.setdefault(key, run)

    def _forget_additions(self, begun: int) -> None:
        self._added = {key: when for key, when in self._added.items() if when > begun}


class Member:
    """A node. One that is only expected has no ``runtime`` yet; ``tenure`` is None where runs live without leases.

    ``why`` is what is told of its runs when it is lost.
    """

    def __init__(self, runtime: Runtime | None, tenure: Tenure | None, why: str = CUT_OFF) -> None:
        self.runtime = runtime
        self.tenure = tenure
        self.why = why
        self.picture = Picture()


class Fleet(Mapping[str, Runtime]):
    """Node name → its runtime, for nodes that have answered at least once; and their pictures.

    ``expected`` doors were configured whose runs live without leases. Until all of them have answered, a resource may
    have runs that nobody knows of.
    """

    def __init__(self, expected: int = 1) -> None:
        self._expected = expected
        self._nodes: dict[str, Member] = {}

    def __getitem__(self, name: str) -> Runtime:
        found = self._nodes[name].runtime
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, node in self._nodes.copy().items() if node.runtime is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def local(self) -> bool:
        """Whether there are doors whose runs live without leases: the platform's own machine takes work."""
        return self._expected > 0

    def expect(self, name: str, tenure: Tenure, why: str = CUT_OFF) -> None:
        """A node that an earlier controller knew, and whose leases it may have renewed until just now."""
        self._nodes.setdefault(name, Member(None, tenure, why))

    def join(self, name: str, runtime: Runtime, tenure: Tenure | None = None) -> Picture:
        """A node answered: its picture, the known one when it did before."""
        known = self._nodes.get(name)
        if known is None:
            known = self._nodes[name] = Member(runtime, tenure)
        known.runtime, known.tenure, known.why = runtime, tenure, CUT_OFF
        return known.picture

    def leave(self, name: str) -> None:
        """A node that is no more, and of which nothing can live."""
        self._nodes.pop(name, None)

    def members(self) -> dict[str, Member]:
        return self._nodes.copy()

    def runtime(self, name: str) -> Runtime:
        """Raises Unavailable for a node that has not answered since this controller started, or is lost."""
        node = self._nodes.get(name)
        if node is None or node.runtime is None:
            raise Unavailable(f"node {name} has not answered yet", retry_after=_RETRY_AFTER)
        if node.picture.lost:
            raise Unavailable(f"node {name} cannot be asked now", retry_after=_RETRY_AFTER)
        return node.runtime

    def picture(self, name: str) -> Picture:
        """Raises Unavailable for a node that nobody knows."""
        node = self._nodes.get(name)
        if node is None:
            raise Unavailable(f"node {name} has not answered yet", retry_after=_RETRY_AFTER)
        return node.picture

    def tenure(self, name: str) -> Tenure | None:
        """By what runs live there; None: they need no lease."""
        node = self._nodes.get(name)
        return node.tenure if node else None

    def leased(self, name: str, run: RunSpec) -> RunSpec:
        """The run as it may begin on the node now. Raises Unavailable while nobody keeps the node's lease."""
        tenure = self.tenure(name)
        if tenure is None:
            return run
        challenge = tenure.challenge(boottime())
        if challenge is None:
            raise Unavailable(f"node {name} has not answered lately: nothing begins there", retry_after=_RETRY_AFTER)
        return run.model_copy(update={"lease": tenure.lease, "challenge": challenge})

    def lost(self, name: str) -> bool:
        """Whether nothing that the node was given can live any more. Of a node that nobody knows, nothing is known."""
        node = self._nodes.get(name)
        return node is not None and node.picture.lost

    def runs(self, uid: str, nodes: Sequence[str] = ()) -> list[RunObservation]:
        """All runs of a resource, which has claims on ``nodes``; Unavailable while any of its nodes is unknown."""
        members = self._nodes.copy()
        if sum(node.tenure is None for node in members.values()) < self._expected:
            raise Unavailable("the nodes have not all answered yet", retry_after=_RETRY_AFTER)
        for name in nodes:
            if name not in members:
                raise Unavailable(f"node {name} has not answered yet", retry_after=_RETRY_AFTER)
        found: list[RunObservation] = []
        for name, node in sorted(members.items()):
            runs = node.picture.of(uid)
            if (runs or name in nodes) and not node.picture.complete:
                raise Unavailable(f"node {name} cannot be asked now", retry_after=_RETRY_AFTER)
            found += runs
        return sorted(found, key=lambda run: run.key)

    def holders(self, key: str) -> Sequence[Runtime]:
        """Who may know of a run: the node that it was seen on, else those of which nothing is known now.

        A node that may be cut off is not asked while it is silent: whoever did would wait for it in vain.
        """
        members = list(self._nodes.copy().values())
        holding = [node for node in members if node.picture.holds(key)]
        asked = holding or [node for node in members if not node.picture.complete]
        return [
            node.runtime
            for node in asked
            if node.runtime is not None and (node.tenure is None or (node.picture.complete and not node.picture.lost))
        ]

    def lose_claim(self, name: str, key: str, placed_at: float) -> RunObservation | None:
        """The run that had room on a lost node, whether it ever began or not; None when the node is back meanwhile."""
        run = RunObservation(key=key, phase=RunPhase.PREPARING, node=name, created_at=placed_at)
        return self.picture(name).add_lost(run)


def _lost(run: RunObservation, at: float, why: str) -> RunObservation:
    """As it is told of when its node's lease is over; how it ended, if it did before, stays."""
    if run.phase.ended:
        return run
    return run.model_copy(
        update={
            "phase": RunPhase.LOST,
            "reason": RunReason.LOST,
            "message": f"node {run.node} {why}",
            "exited_at": at,
            "ready": False,
            "address": None,
        }
    )


def _uid(key: str) -> str:
    return key.partition("/")[0]
