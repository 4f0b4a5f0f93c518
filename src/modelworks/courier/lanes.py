"""Which replica a task goes to: limits, weights of revisions, a slow beginning where one is asked for, and nothing to
one that says nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelworks.gateway.table import Replica


class Lane:
    """One replica and the tasks that it works on. ``window`` grows to ``limit`` where the replica begins slowly.

    ``in_flight`` are places that are taken, ``owed`` the requests among them that it has. ``heard``: when it last said
    a byte, or got its first request, less the seconds that it was ``silent`` to those that have ended since.
    """

    __slots__ = (
        "heard",
        "hung",
        "in_flight",
        "limit",
        "owed",
        "removed",
        "replica",
        "resting_until",
        "silent",
        "window",
    )

    def __init__(self, replica: Replica, limit: int) -> None:
        self.replica = replica
        self.limit = limit
        self.window = 1 if replica.slow else limit
        self.in_flight = 0
        self.removed = False
        self.resting_until = 0.0  # nobody listened there a moment ago
        self.owed = 0
        self.heard = self.silent = 0.0
        self.hung = False

    def free(self, now: float) -> int:
        if self.removed or self.hung or now < self.resting_until:
            return 0
        return max(0, min(self.limit, self.window) - self.in_flight)

    @property
    def silent_since(self) -> float | None:
        """Since when it has owed a word; None when nobody waits for one."""
        return self.heard if self.owed else None

    def asked(self, now: float) -> None:
        """A request is on its way to it."""
        if not self.owed:
            self.heard = now - self.silent
        self.owed += 1

    def said(self, now: float) -> None:
        """Some bytes of an answer: who was taken for hung is not, and gets a task, then two, then four."""
        self.heard, self.silent = now, 0.0
        if self.hung:
            self.forgive()

    def ended(self, now: float, *, reached: bool) -> None:
        """A request that was ``asked`` is over; one that never ``reached`` it says nothing of it."""
        self.owed -= 1
        if not self.owed and reached:
            self.silent = now - self.heard  # requests that end for want of an answer must not hide that none comes

    def forgive(self) -> None:
        """Another chance, without the silence before it."""
        self.hung, self.silent, self.window = False, 0.0, 1


class Lanes:
    """The replicas of one service. ``limits`` are divided by the number of couriers, of which each takes its part."""

    def __init__(self) -> None:
        self.lanes: tuple[Lane, ...] = ()
        self._weights: Mapping[str, int] = {}
        self._given: dict[str, int] = {}

    def update(self, replicas: Sequence[Replica], concurrency: int, weights: Mapping[str, int], couriers: int) -> None:
        """The table's new word. Tasks at replicas that leave go on there to their end."""
        kept = {lane.replica: lane for lane in self.lanes}
        lanes = []
        for replica in dict.fromkeys(replicas):
            whole = min(concurrency, replica.limit or concurrency)
            limit = max(1, whole // max(couriers, 1))
            lane = kept.pop(replica, None) or Lane(replica, limit)
            if not replica.slow or lane.window >= lane.limit:
                lane.window = limit
            lane.limit = limit
            lanes.append(lane)
        for lane in kept.values():
            lane.removed = True
        self.lanes = tuple(lanes)
        present = {lane.replica.revision for lane in lanes}
        weighted = {name: share for name, share in weights.items() if share > 0 and name in present}
        if weighted != self._weights or present - set(self._given):
            # Shares are counted anew: what came before says nothing of the new ones.
            self._weights, self._given = weighted, dict.fromkeys(present, 0)

    def take(self, now: float) -> Lane | None:
        """The least loaded lane of the revision whose turn it is; None when none is free.

        When the lanes of that revision are full, one with a larger share takes its turn: the share of a canary is
        never exceeded, and never holds up the rest.
        """
        lanes = [lane for lane in self._open() if lane.free(now)]
        if not lanes:
            return None
        if self._weights:
            order = sorted(self._weights, key=lambda name: (self._given[name] + 1) / self._weights[name])
            turn = self._weights[order[0]]
            fits = [n for n in order if n == order[0] or self._weights[n] >= turn]
            lanes = next((some for name in fits if (some := [a for a in lanes if a.replica.revision == name])), [])
            if not lanes:
                return None
        lane = min(lanes, key=lambda one: one.in_flight / one.limit)
        lane.in_flight += 1
        self._given[lane.replica.revision] = self._given.get(lane.replica.revision, 0) + 1
        return lane

    def back(self, lane: Lane) -> None:
        """It was taken, and there was no task for it."""
        lane.in_flight -= 1
        # Shares may have been counted anew meanwhile, perhaps without that revision.
        self._given[lane.replica.revision] = max(0, self._given.get(lane.replica.revision, 0) - 1)

    def put(self, lane: Lane, *, good: bool) -> None:
        """A task has ended there; after a good one a slow replica may be given twice as many."""
        lane.in_flight -= 1
        if good and lane.window < lane.limit:
            lane.window = min(lane.window * 2, lane.limit)

    def _open(self) -> list[Lane]:
        if not self._weights:
            return list(self.lanes)
        return [lane for lane in self.lanes if lane.replica.revision in self._weights]
