"""The plain case in a straight line: a known request, a free replica, an idle connection to it, a known answer."""

from __future__ import annotations

from modelworks.gateway.client import Repeating
from modelworks.gateway.exchange import Exchange
from modelworks.gateway.heads import RequestHead
from modelworks.gateway.known import Repeated, WholeAnswer
from modelworks.gateway.lanes import Slot
from modelworks.gateway.service import Service
from modelworks.gateway.upstream import UpstreamConnection


class Straight:
    """Takes an exchange's place while nothing but two writes is needed, and makes an exchange of itself otherwise.

    A client's connection has one, and uses it for one request after another.
    """

    __slots__ = ("_began", "_buffer", "_client", "_known", "_now", "_out", "_service", "_slot", "_upstream")

    request_complete = True
    started = False
    tunnel = False

    def __init__(self, client: Repeating, buffer: int) -> None:
        self._client = client
        self._buffer = buffer
        self._now = client.now
        self._began = 0.0
        self._known: Repeated
        self._out: bytes
        self._service: Service
        self._slot: Slot
        self._upstream: UpstreamConnection

    def start(self, service: Service, known: Repeated, out: bytes) -> bool:
        """Send ``out``, the whole request; False when no replica is free, or no connection to it is idle."""
        self._began = now = self._now()
        key = service.key(known.head) if service.sticky else None
        slot = service.admission.take(now, key)
        if slot is None:
            return False
        upstream = slot.door.pool.take(now)
        if upstream is None:
            service.admission.give_back(slot, now, key)
            return False
        slot.failures = 0
        self._known = known
        self._out = out
        self._service = service
        self._slot = slot
        self._upstream = upstream
        upstream.exchange = self
        self._client.begun(self)
        upstream.transport.write(out)  # last: it may say at once that this was too much
        return True

    # The client's side

    @property
    def head(self) -> RequestHead:
        return self._known.head

    def begin(self) -> None:
        """It has begun when its client's connection hears of it."""

    def request_body(self, data: bytes) -> None:
        """It has all of it."""

    def request_end(self) -> None:
        """It is whole."""

    def flush(self) -> None:
        """All has been sent."""

    def client_blocked(self, blocked: bool) -> None:
        self.unfold().client_blocked(blocked)

    def check(self, now: float) -> None:
        if now > self._began + self._service.route.keepalive:
            self.unfold().check(now)

    def abort(self) -> None:
        self.unfold().abort()

    # The upstream's side

    def answer_known(self, known: WholeAnswer, data: bytes) -> bool:
        client = self._client
        if client.draining:
            return False
        service, slot, upstream = self._service, self._slot, self._upstream
        now = self._now()
        seconds = now - self._began
        upstream.exchange = None
        door = slot.door
        door.pool.put(upstream, now)
        door.counts.answered(known.status, seconds)
        slot.heard, slot.silent = now, 0.0
        if seconds > service.silence.longest:
            service.silence.longest = seconds
        if slot.hung:
            service.admission.revive(slot, now)
        service.admission.release(slot, now, seconds, known.status < 500)
        client.answer(known.out + data[known.body :], now)
        return True

    def unfold(self) -> Exchange:
        """The exchange that this request is, with all its cases; it has the request from here on."""
        exchange = Exchange(self._client, self._service, self._known.head, self._out, self._buffer, True)
        exchange.sent(self._slot, self._upstream, self._began)
        if not self._upstream.lost:
            self._upstream.exchange = exchange
        self._client.unfolded(self, exchange)
        return exchange

    def upstream_ended(self) -> None:
        self.unfold().upstream_ended()

    def upstream_lost(self, error: Exception | None) -> None:
        self.unfold().upstream_lost(error)

    def upstream_blocked(self, blocked: bool) -> None:
        self.unfold().upstream_blocked(blocked)
