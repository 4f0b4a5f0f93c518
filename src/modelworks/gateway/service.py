"""One service as the gateway serves it: its route, its admission, the doors to its replicas, its counters."""

from __future__ import annotations

import asyncio

from modelworks.gateway.admission import Admission, Slot, Waiter
from modelworks.gateway.door import Door
from modelworks.gateway.limits import Limits
from modelworks.gateway.metrics import Gauge, ServiceMetrics
from modelworks.gateway.pool import Pool
from modelworks.gateway.problems import Problem
from modelworks.gateway.table import Replica, Route

_STARTING_RETRY = 2
_STOPPED_RETRY = 30


class Service:
    """Lives as long as its uid is in the table, and then until its last request has ended.

    ``ready``: requests may enter. ``longest_whole``: a body up to this may be taken as a whole, in bytes.
    ``patience``: how often a request may find nobody listening before it is told so.
    """

    def __init__(self, route: Route, loop: asyncio.AbstractEventLoop, limits: Limits, *, patience: int = 4) -> None:
        self.route = route
        self.patience = patience
        self.metrics = ServiceMetrics()
        self.ready = False
        self.longest_whole = 0
        self._loop = loop
        self._limits = limits
        self._leaving: list[Slot] = []
        self.admission = Admission(self._open, queue_size=route.queue_size, queue_timeout=route.queue_timeout)
        self.update(route)

    def update(self, route: Route) -> list[Waiter]:
        """Follow the table; answers those who waited for what will not come."""
        self.route = route
        self.ready = route.state == "ready" and bool(route.replicas)
        self.longest_whole = min(route.max_body, self._limits.buffer)
        waiting = self.admission.flush() if route.state in ("failed", "stopped") else []
        left = self.admission.update(
            route.replicas,
            concurrency=route.concurrency,
            queue_size=route.queue_size,
            queue_timeout=route.queue_timeout,
        )
        self._let_go(left)
        return waiting

    def remove(self) -> list[Waiter]:
        """The service has left the table."""
        self._let_go(self.admission.update((), concurrency=1, queue_size=0, queue_timeout=0))
        return self.admission.flush()

    @property
    def busy(self) -> bool:
        """Whether requests are still at replicas that have left."""
        return bool(self._leaving)

    def unavailable(self) -> Problem | None:
        """Why nobody may enter now, if so. A known service without replicas waits for them while it is starting."""
        route = self.route
        if self.ready:
            return None
        stopped = route.state in ("failed", "stopped")
        return Problem(
            503,
            "unavailable",
            f"Service {route.service} is {route.state}" + (f": {route.message}" if route.message else "."),
            remedy=f"`mw service get {route.service}` and `mw service log {route.service}` say more.",
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
            remedy=f"It is restarted by itself; `mw service log {self.route.service}` says more.",
            retry_after=1,
        )

    def too_large(self) -> Problem:
        return Problem(
            413,
            "too-large",
            f"The request's body is larger than {self.route.max_body} bytes.",
            remedy="Put large inputs into a bucket and send their address.",
            close=True,
        )

    def silent(self) -> Problem:
        return Problem(
            408,
            "timeout",
            f"Service {self.route.service} did not begin to answer within {self.route.keepalive:g} s.",
            remedy="Raise `keepalive` of the service, or make its answer shorter.",
        )

    def broken(self, detail: str) -> Problem:
        return Problem(
            502,
            "upstream-failed",
            f"The replica failed: {detail}.",
            remedy=f"`mw service log {self.route.service}` says more.",
        )

    def sweep(self, now: float) -> list[Waiter]:
        """Housekeeping; answers those whose time in the queue is over."""
        for slot in self.admission.slots:
            slot.door.pool.sweep(now)
        self._leaving = [slot for slot in self._leaving if slot.in_flight > 0]
        return self.admission.expire(now)

    def gauge(self) -> Gauge:
        a = self.admission
        return Gauge(self.route.service, self.metrics, a.in_flight, a.queued, len(a.slots))

    def close(self) -> None:
        for slot in self.admission.slots:
            slot.door.pool.close()

    def _open(self, replica: Replica) -> Door:
        lines = (
            f"Server: modelworks\r\nX-Mw-Replica: {replica.id}\r\nX-Mw-Revision: {replica.revision}\r\nX-Mw-Queue-Ms: "
        ).encode()
        unqueued = lines + b"0\r\n"
        return Door(Pool(replica.address, self._loop, self._limits, unqueued), lines, unqueued)

    def _let_go(self, slots: list[Slot]) -> None:
        """Their requests go on; no new ones come, and each connection closes when its answer is whole."""
        for slot in slots:
            slot.door.pool.close()
        self._leaving += slots
