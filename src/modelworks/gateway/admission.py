"""Who may enter a service: a limit for each replica, and one bounded first-in-first-out queue before all of them.

Holds between any two calls: no replica has more requests than its limit (a lowered limit holds for new ones), and
nobody waits while a replica is free. Time comes in as ``now``; nothing here does I/O.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from modelworks.gateway.balance import least_loaded
from modelworks.gateway.door import Door
from modelworks.gateway.table import Replica

_MEMORY = 0.1  # weight of the newest request in the mean
_LONGEST_RETRY = 60
_SUSPECT_FIRST = 0.25
_SUSPECT_LONGEST = 2.0


class Waiter(Protocol):
    """A request that waits. ``granted`` may be called from any other call into :class:`Admission`."""

    def granted(self, slot: Slot) -> None: ...
    def expired(self) -> None: ...
    def dismissed(self) -> None: ...


class Slot:
    """One replica as the gateway sees it: its load, whether it may be given more, whether it has left the table.

    ``door`` is the way to the replica; nothing here goes through it.
    """

    __slots__ = ("door", "failures", "in_flight", "limit", "open", "removed", "replica", "suspect_until")

    def __init__(self, replica: Replica, limit: int, door: Door) -> None:
        self.replica = replica
        self.limit = limit
        self.in_flight = 0
        self.open = True
        self.removed = False
        self.door = door
        self.failures = 0
        self.suspect_until = 0.0


class QueueFull(Exception):
    """``retry_after``: seconds in which the queue should have moved on, from the mean time of recent requests."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} s")
        self.retry_after = retry_after


class Admission:
    """The slots and the queue of one service."""

    def __init__(self, door: Callable[[Replica], Door], *, queue_size: int, queue_timeout: float) -> None:
        self._door = door
        self.queue_size = queue_size
        self.queue_timeout = queue_timeout
        self.slots: tuple[Slot, ...] = ()
        self._queue: OrderedDict[Waiter, float] = OrderedDict()  # → deadline
        self._turn = 0
        self._mean = 0.0

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Requests at replicas of the table; those at replicas that have left it are not counted."""
        return sum(slot.in_flight for slot in self.slots)

    def take(self) -> Slot | None:
        """A slot at once, or None when there is nothing but the queue."""
        self._turn += 1
        slot = least_loaded(self.slots, self._turn)
        if slot is not None:
            slot.in_flight += 1
        return slot

    def enter(self, waiter: Waiter, now: float) -> Slot | None:
        """A slot at once, or None: ``waiter.granted`` is called when its turn comes. Raises QueueFull."""
        # Nobody waits while a slot is free, so a free slot is never taken from the head of the queue.
        slot = self.take()
        if slot is not None:
            return slot
        if len(self._queue) >= self.queue_size:
            raise QueueFull(self.retry_after())
        self._queue[waiter] = now + self.queue_timeout
        return None

    def reenter(self, waiter: Waiter, deadline: float) -> Slot | None:
        """As ``enter``, for one whose replica did not answer: to the front, and the queue's size does not matter."""
        slot = self.take()
        if slot is None:
            self._queue[waiter] = deadline
            self._queue.move_to_end(waiter, last=False)
        return slot

    def cancel(self, waiter: Waiter) -> bool:
        """Leave the queue; False when it was not in it."""
        return self._queue.pop(waiter, None) is not None

    def release(self, slot: Slot, held: float | None) -> None:
        """The request at ``slot`` has ended after ``held`` seconds (None: it never began); the next one may enter."""
        slot.in_flight -= 1
        if held is not None:
            self._mean += _MEMORY * (held - self._mean)
        if self._queue:
            self._pump()

    def suspect(self, slot: Slot, now: float) -> None:
        """Nothing listens there: leave it alone for a moment, longer each time."""
        slot.open = False
        slot.suspect_until = now + min(_SUSPECT_FIRST * 2.0**slot.failures, _SUSPECT_LONGEST)
        slot.failures = min(slot.failures + 1, 8)

    def update(
        self, replicas: Sequence[Replica], *, concurrency: int, queue_size: int, queue_timeout: float
    ) -> list[Slot]:
        """Take the table's new word; answers the slots that left. Their requests go on, and new ones do not come."""
        self.queue_size, self.queue_timeout = queue_size, queue_timeout
        kept = {slot.replica: slot for slot in self.slots}
        slots: list[Slot] = []
        for replica in dict.fromkeys(replicas):
            slot = kept.pop(replica, None) or Slot(replica, concurrency, self._door(replica))
            slot.limit = concurrency
            slots.append(slot)
        self.slots = tuple(slots)
        for slot in kept.values():
            slot.removed = True
            slot.open = False
        self._pump()
        return list(kept.values())

    def expire(self, now: float) -> list[Waiter]:
        """Suspects get another chance; whose deadline has passed leaves the queue and is answered."""
        for slot in self.slots:
            if not slot.open and slot.suspect_until <= now:
                slot.open = True
        if not self._queue:
            return []
        self._pump()
        late = [waiter for waiter, deadline in self._queue.items() if deadline <= now]
        for waiter in late:
            del self._queue[waiter]
        return late

    def flush(self) -> list[Waiter]:
        """Everybody leaves the queue: the service has stopped."""
        waiting = list(self._queue)
        self._queue.clear()
        return waiting

    def retry_after(self) -> int:
        """Whole seconds until the queue as it is now should be through, between 1 and 60."""
        capacity = sum(slot.limit for slot in self.slots) or 1
        return min(_LONGEST_RETRY, max(1, math.ceil((len(self._queue) + 1) * self._mean / capacity)))

    def _pump(self) -> None:
        while self._queue:
            slot = self.take()
            if slot is None:
                return
            waiter, _ = self._queue.popitem(last=False)
            waiter.granted(slot)
