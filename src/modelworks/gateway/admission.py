"""Who may enter a service: a limit for each replica, one for all, and a bounded queue before them, first in first out
for each revision.

Holds between any two calls: no replica has more requests than its limit (a lowered limit holds for new ones), nobody
waits while a slot that they may use is free, and nobody past their time is let in. Time comes in as ``now``; nothing
here does I/O.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping

from modelworks.gateway.balance import deck, least_loaded, shares, stickiest
from modelworks.gateway.bucket import Bucket
from modelworks.gateway.door import Door
from modelworks.gateway.lanes import Lane, Place, Slot, Waiter, whole_seconds
from modelworks.gateway.pace import FALL, NEAR
from modelworks.gateway.table import Replica, Route

_SUSPECT_FIRST = 0.25
_SUSPECT_LONGEST = 2.0
_SPARE_TIMES = 64
_BURST = 2.5  # seconds of answers that may wait: twice as much as a service can do for two seconds, and some to spare


class Refused(Exception):
    """``full``: the queue is; else the deadline cannot be made. ``retry_after``: seconds in which it should be better,
    from the rate of recent answers."""

    def __init__(self, *, full: bool, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} s")
        self.full = full
        self.retry_after = retry_after


class Admission:
    """The slots and the queue of one service. ``shuffle`` mixes the order in which revisions take their shares."""

    def __init__(
        self, door: Callable[[Replica], Door], route: Route, *, shuffle: Callable[[list[str]], None] = random.shuffle
    ) -> None:
        self._door = door
        self._shuffle = shuffle
        self._route = route
        self._limited = False  # whether there is a limit over all replicas
        self.slots: tuple[Slot, ...] = ()
        self.leaving: list[Slot] = []  # they have left the table, and some have requests still
        self._lanes: dict[str, Lane] = {}  # who takes requests
        self._aside: Lane | None = None  # who only gets copies
        self._only: Lane | None = None  # all there is, mostly
        self._weights: Mapping[str, int] = {}
        self._usable: Mapping[str, int] = {}  # the weights of the lanes with an open slot, or of all if none has one
        # What is left of a deck by the weights it was made for: who goes and comes back changes no shares.
        self._decks: dict[tuple[tuple[str, int], ...], list[str]] = {}
        self._deck: list[str] = []
        self._places: dict[Waiter, Place] = {}
        self._times: list[tuple[float, int, Waiter]] = []  # a heap; who has left since is passed over
        self._number = self._front = self._turn = 0
        self.update(route, 0.0)

    @property
    def queued(self) -> int:
        return len(self._places)

    @property
    def in_flight(self) -> int:
        """Requests of callers at replicas, those that have left the table with them. Copies are nobody's requests."""
        return sum(slot.in_flight - slot.copies for slot in (*self.slots, *self.leaving))

    def oldest(self, now: float) -> float:
        """How long the first in the queue has waited, in seconds."""
        return max((now - place.since for place in self._places.values()), default=0.0) if self._places else 0.0

    def take(self, now: float, key: bytes | None = None) -> Slot | None:
        """A slot at once, or None when there is nothing but the queue. ``key``: see ``stickiest``."""
        lane = self._only or self._lanes[self._draw(key)]
        slot = None if self._limited and self._at_limit() else self._pick(lane, now)
        if slot is None and lane is not self._only and key is None:
            self._deck.append(lane.name)  # whoever asks next for the same request draws the same
        return slot

    def take_aside(self, revision: str, now: float) -> Slot | None:
        """A free slot of that very revision, for a copy, until its ``release`` as one. It must not delay anybody: it is
        not counted where all replicas together are limited."""
        lane = self._aside or self._lanes.get(revision)
        return None if lane is None or lane.queue else self._pick(lane, now, copy=True)

    def enter(
        self, waiter: Waiter, now: float, until: float, *, wanted: float | None = None, key: bytes | None = None
    ) -> Slot | None:
        """A slot at once, or None: ``waiter.granted`` is called when its turn comes.

        ``until``: how long it may wait; ``wanted``: when its answer is no longer wanted. Raises Refused.
        """
        # Nobody waits while a slot is free, so a free slot is never taken from the head of the queue.
        if (wanted is None or wanted > now) and (slot := self.take(now, key)) is not None:
            return slot
        lane = self._only or self._lanes[self._draw(key)]
        if self._full():
            raise Refused(full=True, retry_after=self._retry_after(lane))
        if wanted is not None:
            # Time to be answered has to be left, too; but a first guess of that must not refuse everything.
            until = min(until, wanted - min(lane.pace.tail, (wanted - now) / 2))
        wait = lane.wait(len(lane.queue), self._route.concurrency_limit)
        if until <= now or (wait is not None and now + wait > until):
            raise Refused(full=False, retry_after=whole_seconds((wait or 0.0) - (until - now)))
        self._number += 1
        self._stand(waiter, Place(lane, self._number, now, until, key))
        return None

    def reenter(self, waiter: Waiter, now: float, until: float, key: bytes | None = None) -> Slot | None:
        """As ``enter``, for one whose replica did not answer: to the front, and the queue's size does not matter."""
        slot = self.take(now, key)
        if slot is None:
            self._front -= 1
            lane = self._only or self._lanes[self._draw(key)]
            self._stand(waiter, Place(lane, self._front, now, until, key))
            lane.queue.move_to_end(waiter, last=False)
        return slot

    def cancel(self, waiter: Waiter) -> bool:
        """Leave the queue; False when it was not in it."""
        place = self._places.pop(waiter, None)
        if place is None:
            return False
        lane = place.lane
        del lane.queue[waiter]
        if not lane.queue:
            lane.pace.rest()  # the time until somebody waits again says nothing of how fast a queue moves
        return True

    def release(self, slot: Slot, now: float, held: float | None, good: bool = False, copy: bool = False) -> None:
        """The request (or ``copy``) at ``slot`` has ended after ``held`` seconds (None: it never began), with a good
        answer or without; the next one may enter."""
        slot.in_flight -= 1
        if copy:
            slot.copies -= 1
        lane = slot.lane
        if held is not None:
            pace = lane.pace
            if held < NEAR * pace.mean:
                pace.mean += FALL * (held - pace.mean)  # mostly; a call would be most of what this costs
            else:
                pace.held(held)
        if good and slot.watched:
            slot.answered_well()
        if self._places:
            if lane.queue:
                lane.pace.left(now, lane.capacity)
            self._pump(now)

    def give_back(self, slot: Slot, now: float, key: bytes | None) -> None:
        """Undo ``take``: whoever asks next for the same request draws the same revision."""
        if key is None and self._only is None and slot.lane.name in self._usable:
            self._deck.append(slot.lane.name)
        self.release(slot, now, None)

    def suspect(self, slot: Slot, now: float) -> None:
        """Nothing listens there: leave it alone for a moment, longer each time."""
        slot.suspect_until = now + min(_SUSPECT_FIRST * 2.0**slot.failures, _SUSPECT_LONGEST)
        slot.failures = min(slot.failures + 1, 8)
        self.shut(slot, now)

    def shut(self, slot: Slot, now: float) -> None:
        """Give it nothing more."""
        slot.open = False
        self._reshape(now)

    def reopen(self, slot: Slot, now: float) -> None:
        if not slot.removed:
            slot.open = True
            self._reshape(now)

    def revive(self, slot: Slot, now: float) -> None:
        """One that was taken for hung has answered, or gets another chance."""
        slot.hung = False
        slot.silent = 0.0
        slot.watched = slot.limit < slot.ceiling
        self.reopen(slot, now)

    def update(self, route: Route, now: float) -> list[Slot]:
        """Take the table's new word; answers the slots that left. Their requests go on, and new ones do not come."""
        if route.weights != self._route.weights:
            self._decks.clear()
        self._route = route
        self._limited = route.concurrency_limit is not None
        kept = {_identity(slot.replica): slot for slot in self.slots}
        lanes = self._arrange(route)
        slots: list[Slot] = []
        for replica in {_identity(r): r for r in route.replicas}.values():
            lane = self._lane_of(replica.revision, lanes)
            ceiling = min(route.concurrency, replica.limit or route.concurrency)
            slot = kept.pop(_identity(replica), None)
            if slot is None:
                slot = Slot(replica, ceiling, self._door(replica), lane)
            else:
                slot.follow(replica, ceiling)
                slot.lane = lane
            slots.append(slot)
        self.slots = tuple(slots)
        for lane in (*lanes.values(), *((self._aside,) if self._aside else ())):
            lane.slots = tuple(slot for slot in slots if slot.lane is lane)
        for slot in kept.values():
            slot.removed = True
            slot.open = False
        self.leaving += kept.values()
        self._lanes = lanes
        self._only = next(iter(lanes.values())) if len(lanes) == 1 else None
        self._use(self._usable_weights())
        self._rehome()
        self._reshape(now)
        return list(kept.values())

    def bucket(self, rate: float, now: float) -> Bucket:
        """What keeps the service to so many requests a second."""
        return Bucket(rate, now)

    def retire(self) -> list[Slot]:
        """The service has left the table: so do all slots, which are answered."""
        left = list(self.slots)
        for slot in left:
            slot.removed, slot.open = True, False
        self.slots = ()
        self.leaving += left
        return left

    def sweep(self, now: float) -> None:
        """Suspects get another chance, and who has left and answered all is forgotten."""
        self.leaving = [slot for slot in self.leaving if slot.in_flight]
        for slot in self.slots:
            if not slot.open and not slot.hung and slot.suspect_until <= now:
                self.reopen(slot, now)

    def due(self) -> float | None:
        """When the next one of the queue has waited in vain."""
        times = self._times
        if len(times) > 2 * len(self._places) + _SPARE_TIMES:
            self._times = times = [(p.until, p.number, waiter) for waiter, p in self._places.items()]
            heapq.heapify(times)
        while times:
            until, number, waiter = times[0]
            place = self._places.get(waiter)
            if place is not None and place.number == number:
                return until
            heapq.heappop(times)
        return None

    def expire(self, now: float) -> list[Waiter]:
        """Whose time is over leaves the queue, and is answered."""
        late: list[Waiter] = []
        while (until := self.due()) is not None and until <= now:
            waiter = self._times[0][2]
            self.cancel(waiter)
            late.append(waiter)
        return late

    def flush(self) -> list[Waiter]:
        """Everybody leaves the queue: the service has stopped."""
        waiting = [waiter for waiter, _ in self._in_order()]
        self._places.clear()
        self._times.clear()
        for lane in self._lanes.values():
            lane.queue.clear()
            lane.pace.rest()
        return waiting

    def retry_after(self) -> int:
        """Whole seconds until the queue as it is now should be through, between 1 and 60."""
        return max(self._retry_after(lane) for lane in self._lanes.values())

    # Inside

    def _retry_after(self, lane: Lane) -> int:
        return whole_seconds(lane.wait(len(lane.queue), self._route.concurrency_limit))

    def _at_limit(self) -> bool:
        most = self._route.concurrency_limit
        return most is not None and self.in_flight >= most

    def _arrange(self, route: Route) -> dict[str, Lane]:
        """The lanes for these replicas; one without a name when they take requests alike."""
        old = dict(self._lanes)
        if self._aside is not None:
            old[self._aside.name] = self._aside
        aside = route.mirror.revision if route.mirror is not None else ""
        weights = shares(route.weights, (replica.revision for replica in route.replicas), aside)
        present = any(replica.revision == aside for replica in route.replicas)
        self._aside = _again(old, aside) if aside and present and aside not in weights else None
        self._weights = weights or {"": 1}
        return {name: _again(old, name) for name in self._weights}

    def _lane_of(self, revision: str, lanes: Mapping[str, Lane]) -> Lane:
        if self._aside is not None and revision == self._aside.name:
            return self._aside
        if "" in lanes and not any(self._route.weights.values()):
            return lanes[""]
        return lanes.get(revision) or Lane(revision)  # the last: one that gets nothing

    def _draw(self, key: bytes | None) -> str:
        if key is not None:
            return stickiest(self._usable, key)
        if not self._deck:
            self._deck += deck(self._usable, self._shuffle)
        return self._deck.pop()

    def _usable_weights(self) -> Mapping[str, int]:
        if self._only is not None:
            return self._weights
        usable = {name: weight for name, weight in self._weights.items() if self._lanes[name].usable}
        return usable or dict(self._weights)

    def _use(self, usable: Mapping[str, int]) -> None:
        self._usable = usable
        self._deck = self._decks.setdefault(tuple(sorted(usable.items())), [])

    def _reshape(self, now: float) -> None:
        """What slots are open has changed: shares of revisions without one go to the others, with those who wait."""
        if self._only is None:
            usable = self._usable_weights()
            if usable != self._usable:
                self._use(usable)
                self._rehome()
        self._pump(now)

    def _rehome(self) -> None:
        """Who waits at a lane that is gone, or has no open slot while others have one, waits at another from now on."""
        if not self._places:
            return
        if self._only is None:
            self._use(self._usable_weights())
        waiting = self._in_order()
        for lane in self._lanes.values():
            lane.queue.clear()
        for waiter, place in waiting:
            if self._only is not None:
                place.lane = self._only
            elif place.lane.name not in self._usable or self._lanes[place.lane.name] is not place.lane:
                place.lane = self._lanes[self._draw(place.key)]
            place.lane.queue[waiter] = place

    def _in_order(self) -> list[tuple[Waiter, Place]]:
        return sorted(self._places.items(), key=lambda item: item[1].number)

    def _stand(self, waiter: Waiter, place: Place) -> None:
        self._places[waiter] = place
        place.lane.queue[waiter] = place
        heapq.heappush(self._times, (place.until, place.number, waiter))

    def _pump(self, now: float) -> None:
        """Let in who may enter, the longest waiting first."""
        while self._places and not self._at_limit():
            heads = [next(iter(lane.queue.items())) for lane in self._lanes.values() if lane.queue]
            for waiter, place in sorted(heads, key=lambda head: head[1].number):
                if place.until < now:
                    self.cancel(waiter)
                    waiter.expired(place.until)
                    break
                if (slot := self._pick(place.lane, now)) is not None:
                    self.cancel(waiter)
                    waiter.granted(slot)
                    break
            else:
                return

    def _pick(self, lane: Lane, now: float, copy: bool = False) -> Slot | None:
        """The least loaded free slot of a lane, with one request (or ``copy``) more."""
        self._turn += 1
        slot = least_loaded(lane.slots, self._turn)
        if slot is not None:
            if slot.in_flight == slot.excused:
                slot.heard = now - slot.silent
            slot.in_flight += 1
            if copy:
                slot.copies += 1
        return slot

    def _full(self) -> bool:
        """Whether nobody more may wait."""
        return len(self._places) >= max(self._route.queue_size, self._burst())

    def _burst(self) -> float:
        """So many may wait where nobody has said how many: they are through within ``_BURST``."""
        if not self._route.queue_grows:
            return 0.0
        most = self._route.concurrency_limit
        return _BURST * sum(lane.rate(most) or 0.0 for lane in self._lanes.values())


def _identity(replica: Replica) -> tuple[str, str, str]:
    return replica.id, replica.address, replica.revision


def _again(lanes: Mapping[str, Lane], name: str) -> Lane:
    """The lane of that name as it was, without its slots."""
    lane = lanes.get(name)
    return lane if lane is not None else Lane(name)
