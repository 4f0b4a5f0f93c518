"""Admission of several gateways on one port: limits and queues count over all of them.

Whoever releases a slot looks whether a request has waited longer at another gateway, and leaves the slot to it; a
datagram tells that gateway. One that is lost costs milliseconds only, since whoever waits also looks by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from modelworks.gateway.admission import Admission
from modelworks.gateway.bucket import Bucket
from modelworks.gateway.door import Door
from modelworks.gateway.lanes import Lane, Place, Slot, Waiter
from modelworks.gateway.shared import Row, Shared
from modelworks.gateway.table import Replica, Route

_LOOK = 0.004  # while somebody waits
_BURY = 0.25


class Hub:
    """One gateway's tie to the others: what they share, and how they wake one another. Made in its loop."""

    def __init__(self, path: Path) -> None:
        """``path`` of the shared file; sockets lie beside it. Raises SetupFailed when there are too many gateways."""
        self.shared = Shared(path)
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._waiting: set[SharedAdmission] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._own = self._bell_of(self.shared.number)
        Path(self._own).unlink(missing_ok=True)
        self._bell.bind(self._own)
        self._loop.add_reader(self._bell.fileno(), self._rung)
        self._burying = self._loop.call_later(_BURY, self._bury)

    def ring(self, number: int) -> None:
        """Wake another gateway: there is a slot for it."""
        with contextlib.suppress(OSError):  # gone, or it has enough of them unread
            self._bell.sendto(b"x", self._bell_of(number))

    def wait(self, admission: SharedAdmission) -> None:
        """Somebody waits there: look for free slots until nobody does."""
        self._waiting.add(admission)
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK, self._look)

    def close(self) -> None:
        self._burying.cancel()
        if self._looking is not None:
            self._looking.cancel()
        self._loop.remove_reader(self._bell.fileno())
        self._bell.close()
        Path(self._own).unlink(missing_ok=True)
        self.shared.close()

    def _bell_of(self, number: int) -> str:
        return f"{self._path}.{number}"

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._bell.recv(16):
                pass
        self._pump()

    def _look(self) -> None:
        self._pump()
        self._looking = self._loop.call_later(_LOOK, self._look) if self._waiting else None

    def _pump(self) -> None:
        now = self._loop.time()
        for admission in list(self._waiting):
            if admission.queued:
                admission.look(now)
            if not admission.queued:
                self._waiting.discard(admission)

    def _bury(self) -> None:
        self._burying = self._loop.call_later(_BURY, self._bury)
        for number in self.shared.bury():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._bell_of(number))


class SharedAdmission(Admission):
    """As :class:`Admission`, with what the other gateways have counted in. ``route.uid`` names the service there."""

    def __init__(self, door: Callable[[Replica], Door], route: Route, hub: Hub) -> None:
        self._hub = hub
        self._all = hub.shared.row(route.uid)
        self._rows: dict[Slot, Row | None] = {}
        self._yielding = False
        super().__init__(door, route)

    def look(self, now: float) -> None:
        """Slots may have become free elsewhere."""
        self._pump(now)

    def take(self, now: float, key: bytes | None = None) -> Slot | None:
        if self._all is not None and not self._places and self._all.first(None) is not None:
            return None  # others came first: after them, by the queue
        return super().take(now, key)

    def enter(
        self, waiter: Waiter, now: float, until: float, *, wanted: float | None = None, key: bytes | None = None
    ) -> Slot | None:
        try:
            return super().enter(waiter, now, until, wanted=wanted, key=key)
        finally:
            self._show()

    def reenter(self, waiter: Waiter, now: float, until: float, key: bytes | None = None) -> Slot | None:
        try:
            return super().reenter(waiter, now, until, key)
        finally:
            self._show()

    def cancel(self, waiter: Waiter) -> bool:
        was = super().cancel(waiter)
        if was:
            self._show()
        return was

    def flush(self) -> list[Waiter]:
        waiting = super().flush()
        self._show()
        return waiting

    def release(self, slot: Slot, now: float, held: float | None, good: bool = False, copy: bool = False) -> None:
        row = self._rows.get(slot)
        if row is not None:
            row.give()
        other = None
        if self._all is not None:
            if not copy:
                self._all.give()
            other = self._all.first(self._since())
        if other is not None:
            self._hub.ring(other)
        self._yielding = other is not None
        try:
            super().release(slot, now, held, good, copy)
        finally:
            self._yielding = False
        if slot.removed and not slot.in_flight:
            self._forget(slot)

    def update(self, route: Route, now: float) -> list[Slot]:
        left = super().update(route, now)
        for slot in left:
            if not slot.in_flight:
                self._forget(slot)
        return left

    def retire(self) -> list[Slot]:
        left = super().retire()
        for slot in left:
            if not slot.in_flight:
                self._forget(slot)
        if self._all is not None and not self._rows:
            self._hub.shared.drop(self._all)
            self._all = None
        return left

    def bucket(self, rate: float, now: float) -> Bucket:
        return Bucket(rate, now) if self._all is None else SharedBucket(rate, now, self._all)

    def _pump(self, now: float) -> None:
        if not self._yielding:
            super()._pump(now)

    def _pick(self, lane: Lane, now: float, copy: bool = False) -> Slot | None:
        slots = lane.slots
        count = len(slots)
        self._turn += 1
        loads = []
        for i in range(count):
            slot = slots[(self._turn + i) % count]
            if slot.open:
                row = self._row(slot)
                loads.append((slot.in_flight if row is None else row.busy, i, slot, row))
        loads.sort(key=lambda one: one[0])
        for load, _, slot, row in loads:
            if load < slot.limit and (row is None or row.take(slot.limit)):
                if copy or self._count():
                    if slot.in_flight == slot.excused:
                        slot.heard = now - slot.silent
                    slot.in_flight += 1
                    if copy:
                        slot.copies += 1
                    return slot
                if row is not None:
                    row.give()
                return None
        return None

    def _count(self) -> bool:
        """One request more of the service; False when all gateways together have as many as it may have."""
        if self._all is None:
            return True
        most = self._route.concurrency_limit
        if most is not None:
            return self._all.take(most)
        self._all.add()
        return True

    def _at_limit(self) -> bool:
        most = self._route.concurrency_limit
        if self._all is None:
            return super()._at_limit()
        return most is not None and self._all.busy >= most

    def _full(self) -> bool:
        if self._all is None:
            return super()._full()
        mine = len(self._places)
        # The rate that this gateway sees is its own share, and so is the queue that may grow with it.
        return not self._all.join(self._route.queue_size, mine) and mine >= self._burst()

    def _stand(self, waiter: Waiter, place: Place) -> None:
        super()._stand(waiter, place)
        self._hub.wait(self)

    def _row(self, slot: Slot) -> Row | None:
        if slot not in self._rows:
            replica = slot.replica
            name = f"{self._route.uid} {replica.id} {replica.revision} {replica.address}"
            self._rows[slot] = self._hub.shared.row(name)
        return self._rows[slot]

    def _forget(self, slot: Slot) -> None:
        row = self._rows.pop(slot, None)
        if row is not None:
            self._hub.shared.drop(row)

    def _since(self) -> float | None:
        """When the first one in the queue came; None when nobody waits."""
        if not self._places:
            return None
        return min(next(iter(lane.queue.values())).since for lane in self._lanes.values() if lane.queue)

    def _show(self) -> None:
        if self._all is not None:
            self._all.show(len(self._places), self._since() or 0.0)


class SharedBucket(Bucket):
    """So many requests a second of all gateways together."""

    __slots__ = ("_row",)

    def __init__(self, rate: float, now: float, row: Row) -> None:
        super().__init__(rate, now)
        self._row = row

    def take(self, now: float) -> float:
        return self._row.pace(self.rate, now)
