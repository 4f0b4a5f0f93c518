"""One service as the gateway serves it: its route, its admission, the doors to its replicas, its counters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from modelworks.gateway.admission import Admission, Slot, Waiter
from modelworks.gateway.limits import Limits
from modelworks.gateway.metrics import Gauge, ServiceMetrics
from modelworks.gateway.pool import Pool
from modelworks.gateway.problems import Problem
from modelworks.gateway.table import Replica, Route

_STARTING_RETRY = 2
_STOPPED_RETRY = 30


@dataclass(frozen=True, slots=True)
class Door:
    """The way to one replica: its connections, and the response headers that name it."""

    pool: Pool
    lines: bytes  # all but the queue time
    unqueued: bytes  # with a queue time of 0


class Service:
    """Lives as long as its uid is in the table, and then until its last request has ended.

    ``patience``: how often a request may find nobody listening before it is told so.
    """

    def __init__(self, route: Route, loop: asyncio.AbstractEventLoop, limits: Limits, *, patience: int = 4) -> None:
        self.route = route
        self.patience = patience
        self.metrics = ServiceMetrics()
        self.admission = Admission(queue_size=route.queue_size, queue_timeout=route.queue_timeout)
        self.doors: dict[Slot, Door] = {}
        self._loop = loop
        self._limits = limits
        self.update(route)

    def update(self, route: Route) -> list[Waiter]:
        """Follow the table; answers those who waited for what will not come."""
        self.route = route
        left = self.admission.update(
            route.replicas,
            concurrency=route.concurrency,
            queue_size=route.queue_size,
            queue_timeout=route.queue_timeout,
        )
        for slot in left:
            self._forget(slot)
        return self.admission.flush() if route.state in ("failed", "stopped") else []

    def remove(self) -> list[Waiter]:
        """The service has left the table."""
        for slot in self.admission.update((), concurrency=1, queue_size=0, queue_timeout=0):
            self._forget(slot)
        return self.admission.flush()

    def door(self, slot: Slot) -> Door:
        door = self.doors.get(slot)
        if door is None:
            door = self.doors[slot] = self._open(slot.replica)
        return door

    def leave(self, slot: Slot, held: float | None) -> None:
        """A request has left its replica."""
        self.admission.release(slot, held)
        if slot.removed:
            self._forget(slot)

    def unavailable(self) -> Problem | None:
        """Why nobody may enter now, if so. A known service without replicas waits for them while it is starting."""
        route = self.route
        if route.state == "ready" and route.replicas:
            return None
        stopped = route.state in ("failed", "stopped")
        return Problem(
            503,
            "unavailable",
            f"Service {route.service} is {route.state}" + (f": {route.message}" if route.message else "."),
            remedy=f"`mw service get {route.service}` and `mw service logs {route.service}` say more.",
            retry_after=_STOPPED_RETRY if stopped else _STARTING_RETRY,
        )

    def queue_full(self, retry_after: int) -> Problem:
        return Problem(
            429,
            "limit-exceeded",
            f"Service {self.route.service} has {self.route.concurrency} requests at each of its "
            f"{len(self.route.replicas)} replicas and {self.route.queue_size} waiting.",
            remedy="Repeat the request later, or raise `replicas`, `concurrency` or `queue.size` of the service.",
            retry_after=retry_after,
        )

    def queue_timeout(self) -> Problem:
        return Problem(
            504,
            "queue-timeout",
            f"No replica of service {self.route.service} was free within {self.route.queue_timeout:g} s.",
            remedy="Raise `replicas`, `concurrency` or `queue.timeout` of the service.",
            retry_after=self.admission.retry_after(),
        )

    def unreachable(self) -> Problem:
        return Problem(
            503,
            "unavailable",
            f"No replica of service {self.route.service} accepts connections.",
            remedy=f"It is restarted by itself; `mw service logs {self.route.service}` says more.",
            retry_after=1,
        )

    def sweep(self, now: float) -> list[Waiter]:
        """Housekeeping; answers those whose time in the queue is over."""
        for door in self.doors.values():
            door.pool.sweep(now)
        return self.admission.expire(now)

    def gauge(self) -> Gauge:
        a = self.admission
        return Gauge(self.route.service, self.metrics, a.in_flight, a.queued, len(a.slots))

    def close(self) -> None:
        for door in self.doors.values():
            door.pool.close()

    def _open(self, replica: Replica) -> Door:
        lines = (
            f"Server: modelworks\r\nX-Mw-Replica: {replica.id}\r\nX-Mw-Revision: {replica.revision}\r\nX-Mw-Queue-Ms: "
        ).encode()
        return Door(Pool(replica.address, self._loop, self._limits), lines, lines + b"0\r\n")

    def _forget(self, slot: Slot) -> None:
        door = self.doors.get(slot)
        if door is None:
            return
        door.pool.close()
        if slot.in_flight <= 0:
            del self.doors[slot]
