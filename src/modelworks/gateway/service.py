"""One service as the gateway serves it: its route, its admission, the doors to its replicas, its counters."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Protocol

from modelworks.gateway.admission import Admission
from modelworks.gateway.bucket import Bucket
from modelworks.gateway.capture import Capture
from modelworks.gateway.common import Hub, SharedAdmission
from modelworks.gateway.door import Door
from modelworks.gateway.heads import RequestHead
from modelworks.gateway.hung import Silence, forgiven, hanging, hung
from modelworks.gateway.lanes import Slot, Waiter
from modelworks.gateway.limits import Limits
from modelworks.gateway.metrics import Gauge, ServiceMetrics
from modelworks.gateway.pool import Pool
from modelworks.gateway.refusals import Refusals
from modelworks.gateway.table import Replica, Route
from modelworks.relay import Secrets

log = logging.getLogger("modelworks.gateway.service")


class Checked(Protocol):
    """A copy under way, which no client's connection looks after."""

    def check(self, now: float) -> None: ...
    def abort(self) -> None: ...


class WaitingBytes:
    """What the requests that wait for a replica hold of memory, over all services, in bytes."""

    __slots__ = ("bytes", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0

    @property
    def tight(self) -> bool:
        """Whether nothing more should be read of those that wait."""
        return self.bytes > self.most // 2


class Service(Refusals):
    """Lives as long as its uid is in the table, and then until its last request has ended.

    ``ready``: requests may enter. ``straight``: and nothing has to be done with them but to pass them on.
    ``patient``: one that finds nobody listening may wait for somebody. ``longest_whole``: a body up to this may be
    taken as a whole, in bytes. ``alert`` is called when somebody waits for a first replica, and when replicas hang.
    ``waiting`` is shared by all services; ``hub`` ties the gateway to others on the same port. ``secrets`` are those of
    relays.
    """

    patient = True

    def __init__(
        self,
        route: Route,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        *,
        waiting: WaitingBytes | None = None,
        alert: Callable[[Service], None] | None = None,
        hub: Hub | None = None,
        capture: Capture | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self.route = route
        self.metrics = ServiceMetrics()
        self.silence = Silence()
        self.waiting = waiting or WaitingBytes(limits.waiting)
        self.copies: set[Checked] = set()
        self.ready = self.straight = self.sticky = False
        self.longest_whole = 0
        self.removed = False
        self.bucket: Bucket | None = None
        self._alert = alert
        self._capture = capture
        self._secrets = secrets or Secrets()
        self.capture: Capture | None = None  # while requests are to be captured
        self._loop = loop
        self._limits = limits
        self._hung: frozenset[str] = frozenset()
        self._answered = 0  # when a hung replica had been replaced
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = math.inf
        self.admission = Admission(self._open, route) if hub is None else SharedAdmission(self._open, route, hub)
        self._follow()

    def update(self, route: Route) -> list[Waiter]:
        """Follow the table; answers those who waited for what will not come."""
        self.route = route
        waiting = self.admission.flush() if route.state in ("failed", "stopped") else []
        left = self.admission.update(route, self._loop.time())
        if any(slot.hung for slot in left):
            self.silence.fruitless += 1
            self._answered = self._answers()
        self._let_go(left)
        self.metrics.forget(slot.replica.revision for slot in (*self.admission.slots, *self.admission.leaving))
        self._follow()
        return waiting

    def remove(self) -> list[Waiter]:
        """The service has left the table."""
        self.removed = True
        waiting = self.admission.flush()
        self._let_go(self.admission.retire())
        for copy in list(self.copies):
            copy.abort()
        if self._timer is not None:
            self._timer.cancel()
        return waiting

    @property
    def busy(self) -> bool:
        """Whether requests are still at replicas that have left."""
        return bool(self.admission.leaving)

    def key(self, head: RequestHead) -> bytes | None:
        """The value that holds a request to its revision, if the service has such a header and the request it."""
        if not self.sticky:
            return None
        wanted, lines = self.route.sticky_header, head.lines
        if wanted == b"authorization":
            return head.authorization
        for i in range(0, len(lines), 4):
            if lines[i].lower() == wanted:
                return lines[i + 2]
        return None

    def gathers(self, head: RequestHead) -> bool:
        """Whether a request's body is to come in whole before anything else is done for it."""
        length = head.length
        return length is not None and length <= self._limits.gathered and not head.expects and not self.waiting.tight

    @property
    def patience(self) -> float:
        """How long a request may wait that comes now, in seconds."""
        # Without a replica there is no queue that could move: a first one may take longer than any queue should.
        return self.route.queue_timeout if self.admission.slots else self.route.hold

    def enter(self, waiter: Waiter, now: float, until: float, wanted: float | None, key: bytes | None) -> Slot | None:
        """See :meth:`Admission.enter`."""
        slot = self.admission.enter(waiter, now, until, wanted=wanted, key=key)
        if slot is None:
            self._arm()
            if not self.admission.slots and self._alert is not None:
                self._alert(self)
        return slot

    def reenter(self, waiter: Waiter, now: float, until: float, key: bytes | None) -> Slot | None:
        """See :meth:`Admission.reenter`."""
        slot = self.admission.reenter(waiter, now, until, key)
        if slot is None:
            self._arm()
        return slot

    def heard(self, slot: Slot) -> None:
        """Bytes have come from a replica."""
        now = self._loop.time()
        slot.heard, slot.silent = now, 0.0
        if slot.hung:
            self.admission.revive(slot, now)

    def now(self) -> float:
        return self._loop.time()

    def mirrored(self) -> bool:
        """Whether the next request is to be sent to the mirror, too."""
        mirror = self.route.mirror
        return mirror is not None and random.random() * 100 < mirror.percent

    def sweep(self, now: float, gap: float) -> None:
        """Housekeeping, ``gap`` seconds after the last time."""
        for slot in self.admission.slots:
            slot.door.pool.sweep(now)
        for copy in list(self.copies):
            copy.check(now)
        self.admission.sweep(now)
        self._find_hung(now, gap)

    @property
    def hung(self) -> frozenset[str]:
        """The replicas that hold requests and say nothing."""
        return hung(self.admission.slots)

    def in_flight(self) -> dict[str, int]:
        """Requests and copies at replicas by revision, with those that have left the table."""
        found: dict[str, int] = {}
        for slot in (*self.admission.slots, *self.admission.leaving):
            found[slot.replica.revision] = found.get(slot.replica.revision, 0) + slot.in_flight
        return found

    def gauge(self) -> Gauge:
        a = self.admission
        oldest = a.oldest(self._loop.time())
        return Gauge(self.route.service, self.metrics, a.in_flight, a.queued, oldest, len(a.slots), len(self.hung))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for copy in list(self.copies):
            copy.abort()
        for slot in self.admission.slots:
            slot.door.pool.close()

    def _follow(self) -> None:
        route = self.route
        self.ready = route.state == "ready" and bool(route.replicas) and not route.tasks
        self.capture = self._capture if route.capture is not None else None
        if self.capture is not None:
            self.capture.ready()
        self.straight = self.ready and route.rate_limit is None and route.mirror is None and self.capture is None
        self.sticky = bool(route.sticky_header) and len(route.weights) > 1
        self.longest_whole = min(route.max_body, self._limits.buffer)
        if route.rate_limit is None:
            self.bucket = None
        elif self.bucket is None or self.bucket.rate != route.rate_limit:
            self.bucket = self.admission.bucket(route.rate_limit, self._loop.time())

    def _open(self, replica: Replica) -> Door:
        lines = (
            f"Server: modelworks\r\nX-Mw-Replica: {replica.id}\r\nX-Mw-Revision: {replica.revision}\r\nX-Mw-Queue-Ms: "
        ).encode()
        unqueued = lines + b"0\r\n"
        preface = partial(self._secrets.preface, replica.run) if replica.run else None
        pool = Pool(replica.address, self._loop, self._limits, unqueued, preface)
        return Door(pool, lines, unqueued, self.metrics.revision(replica.revision))

    def _let_go(self, slots: list[Slot]) -> None:
        """Their requests go on; no new ones come, and each connection closes when its answer is whole."""
        for slot in slots:
            slot.door.pool.close()

    def _arm(self) -> None:
        """Wake when the next one has waited in vain: it is told at that moment, not at some round of a sweep."""
        due = self.admission.due()
        if due is None or due >= self._due_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_at = due
        self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        due, self._timer, self._due_at = self._due_at, None, math.inf
        for waiter in self.admission.expire(self._loop.time()):
            waiter.expired(due)
        self._arm()

    def _answers(self) -> int:
        return sum(self.metrics.answers.values())

    def _find_hung(self, now: float, gap: float) -> None:
        slots = self.admission.slots
        if gap > self._limits.asleep:
            # It was us who did not listen.
            for slot in slots:
                slot.heard += gap
        self.silence.sweep(now)
        if self.silence.fruitless and self._answers() > self._answered:
            self.silence.fruitless = 0
        for slot in hanging(slots, now, self.silence.allowed(self.route.hang_timeout, self.route.keepalive)):
            slot.hung = slot.watched = True
            log.warning(
                "replica %s of %s holds %d requests and has said nothing for %.1f s: it gets no more",
                slot.replica.id, self.route.service, slot.in_flight, now - slot.heard,
                extra={"replica": slot.replica.id, "silent": round(now - slot.heard, 3)},
            )  # fmt: skip
            self.admission.shut(slot, now)
        for slot in forgiven(slots, now):
            slot.feed_slowly()
            self.admission.revive(slot, now)
        found = self.hung
        if found - self._hung and self._alert is not None:
            self._alert(self)
        self._hung = found
