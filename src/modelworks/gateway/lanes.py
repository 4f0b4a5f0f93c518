"""Slots and lanes: a replica as the gateway sees it, and the revision that it belongs to with those who wait for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from modelworks.gateway.door import Door
from modelworks.gateway.pace import Pace
from modelworks.gateway.table import Replica

_LONGEST_RETRY = 60


class Waiter(Protocol):
    """A request that waits. ``granted`` may be called from any other call into the admission; ``due`` is when the wait
    was seen to be in vain."""

    def granted(self, slot: Slot) -> None: ...
    def expired(self, due: float) -> None: ...
    def dismissed(self) -> None: ...


class Slot:
    """One replica: its load, whether it may be given more, whether it has left the table.

    ``limit`` is what it may be given now: less than its ``ceiling`` while it is fed slowly. ``heard``: when it last
    said a byte, or got its first request, less the seconds that it was ``silent`` to those who have given up since.
    ``excused``: those of its requests that it need not say anything to now (the client has not sent all of it, or does
    not read). ``copies``: those that are a mirror's. ``elsewhere``: those of a gateway that drains beside this one.
    ``watched`` is for the hot path: whether an answer matters to more than the counters. ``door`` is the way to the
    replica; nothing here goes through it.
    """

    __slots__ = (
        "ceiling", "copies", "door", "elsewhere", "excused", "failures", "good", "heard", "hung", "in_flight", "lane",
        "limit", "open", "removed", "replica", "silent", "suspect_until", "watched",
    )  # fmt: skip

    def __init__(self, replica: Replica, ceiling: int, door: Door, lane: Lane) -> None:
        self.replica = replica
        self.door = door
        self.lane = lane
        self.limit = self.ceiling = ceiling
        self.in_flight = self.copies = self.elsewhere = self.excused = self.failures = self.good = 0
        self.heard = self.silent = self.suspect_until = 0.0
        self.open = True
        self.removed = self.hung = self.watched = False
        if replica.slow:
            self.feed_slowly()

    def feed_slowly(self) -> None:
        """One request at first, then twice as many after each round of good answers."""
        self.limit, self.good = 1, 0
        self.watched = self.hung or self.ceiling > 1

    def follow(self, replica: Replica, ceiling: int) -> None:
        """The table's new word on the same replica."""
        ramping = self.limit < self.ceiling and (replica.slow or not self.replica.slow)
        slowed = replica.slow and not self.replica.slow
        self.replica, self.ceiling = replica, ceiling
        self.limit = min(self.limit, ceiling) if ramping else ceiling
        self.watched = self.hung or self.limit < ceiling
        if slowed:
            self.feed_slowly()

    def answered_well(self) -> None:
        """Another good answer of one that is fed slowly."""
        if self.limit < self.ceiling:
            self.good += 1
            if self.good >= self.limit:
                self.limit, self.good = min(self.limit * 2, self.ceiling), 0
        self.watched = self.hung or self.limit < self.ceiling

    @property
    def silent_since(self) -> float | None:
        """Since when it has owed a word; None when nobody waits for one."""
        return self.heard if self.in_flight > self.excused else None


class Place:
    """A place in a queue. ``until``: when the wait is in vain. ``key`` holds a sticky request to its revision."""

    __slots__ = ("key", "lane", "number", "since", "until")

    def __init__(self, lane: Lane, number: int, since: float, until: float, key: bytes | None) -> None:
        self.lane = lane
        self.number = number
        self.since = since
        self.until = until
        self.key = key


class Lane:
    """The slots of one revision (of all of them, when they take requests alike), and who waits for one of them."""

    __slots__ = ("name", "pace", "queue", "slots")

    def __init__(self, name: str, pace: Pace | None = None) -> None:
        self.name = name
        self.pace = pace or Pace()
        self.slots: Sequence[Slot] = ()
        self.queue: OrderedDict[Waiter, Place] = OrderedDict()

    @property
    def capacity(self) -> int:
        return sum(slot.limit for slot in self.slots if slot.open)

    @property
    def usable(self) -> bool:
        return any(slot.open for slot in self.slots)

    def rate(self, most: int | None) -> float | None:
        """Requests a second that its slots get through; None when nothing can be said. ``most``: see the service's
        limit over all replicas."""
        capacity = self.capacity if most is None else min(self.capacity, most)
        return (self.pace.rate(capacity) or None) if capacity else None

    def wait(self, ahead: int, most: int | None) -> float | None:
        """Seconds until one with so many ahead would enter; None when nothing can be said. ``most``: as above."""
        rate = self.rate(most)
        return (ahead + 1) / rate if rate else None


def whole_seconds(seconds: float | None) -> int:
    """``Retry-After``: between 1 and 60."""
    return min(_LONGEST_RETRY, max(1, -int(-(seconds or 0.0) // 1)))
