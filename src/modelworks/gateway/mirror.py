"""A copy of a request for the mirrored revision. Nothing that happens to it touches the caller."""

from __future__ import annotations

from modelworks.gateway.heads import RequestHead, ResponseHead
from modelworks.gateway.known import WholeAnswer
from modelworks.gateway.lanes import Slot
from modelworks.gateway.service import Service
from modelworks.gateway.upstream import UpstreamConnection

_UNCOPIED = (b"HEAD", b"CONNECT")


class Copying:
    """Keeps what comes of a request until it is whole, and sends it then; gives up on one that is too long."""

    __slots__ = ("_head", "_parts", "_room", "_service")

    def __init__(self, service: Service, head: RequestHead, first: bytes, received: int, complete: bool) -> None:
        """``first``: what has come so far, with ``received`` bytes of the body."""
        self._service = service
        self._head = head
        self._room = service.longest_whole - received
        copied = head.upgrade is None and head.method not in _UNCOPIED
        self._parts: list[bytes] | None = [first] if copied and self._room >= 0 else None
        if copied and self._room < 0:
            service.metrics.mirror_dropped += 1
        if complete:
            self._send()

    def add(self, data: bytes) -> None:
        parts = self._parts
        if parts is None:
            return
        self._room -= len(data)
        if self._room < 0:
            self._parts = None
            self._service.metrics.mirror_dropped += 1
        elif self._head.chunked:
            parts += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            parts.append(data)

    def end(self) -> None:
        if self._parts is not None and self._head.chunked:
            self._parts.append(b"0\r\n\r\n")
        self._send()

    def _send(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            Copy(self._service, b"".join(parts)).begin()


class Copy:
    """A request of nobody: its answer is counted for its revision, and dropped."""

    __slots__ = ("_began", "_out", "_over", "_service", "_slot", "_status", "_until_close", "_upstream", "_whole")

    tunnel = False

    def __init__(self, service: Service, out: bytes) -> None:
        self._service = service
        self._out = out
        self._over = self._whole = self._until_close = False
        self._status = 0
        self._began = 0.0
        self._slot: Slot | None = None
        self._upstream: UpstreamConnection | None = None

    def begin(self) -> None:
        """Go, if the mirror has a free slot: a copy never waits."""
        service = self._service
        mirror = service.route.mirror
        self._began = now = service.now()
        slot = service.admission.take_aside(mirror.revision, now) if mirror is not None else None
        if slot is None:
            service.metrics.mirror_dropped += 1
            return
        self._slot = slot
        service.copies.add(self)
        connection = slot.door.pool.take(now)
        if connection is None:
            slot.door.pool.connect(self)
        else:
            self.connected(connection)

    def connected(self, connection: UpstreamConnection) -> None:
        if self._over or self._slot is None:
            connection.close()
            return
        self._upstream = connection
        connection.exchange = self
        connection.transport.write(self._out)

    def connect_failed(self, error: OSError) -> None:
        slot = self._slot
        if slot is not None and not self._over:
            self._service.admission.suspect(slot, self._service.now())
            self._end(None, failed=False)

    def check(self, now: float) -> None:
        """Called now and then."""
        if now > self._began + self._service.route.keepalive:
            self._end(None, failed=True)

    def abort(self) -> None:
        self._end(None, failed=False)

    # The upstream's side

    def unfold(self) -> Copy:
        return self

    def answer_known(self, known: WholeAnswer, data: bytes) -> bool:
        if self._status:
            return False
        self._status = known.status
        self._whole = True
        self._end(self._upstream, failed=False)
        return True

    def answer_head(self, response: ResponseHead | None) -> None:
        if response is None or response.status == 101:
            self._end(None, failed=True)
        elif response.status >= 200:
            self._status = response.status
            self._until_close = response.length is None and not response.chunked
            if response.status in (204, 304):
                self._whole = True

    def answer_body(self, data: bytes) -> None:
        """Dropped."""

    def answer_end(self) -> None:
        if self._status:
            self._whole = True

    def answered(self) -> bool:
        return self._whole

    def switched(self) -> bool:
        return False

    def silent(self) -> bool:
        return not self._status

    def deliver(self) -> None:
        """To nobody; but its replica lives."""
        if self._slot is not None:
            self._service.heard(self._slot)

    def tunnel_down(self, data: bytes) -> None:
        """There is none."""

    def finish(self) -> None:
        upstream = self._upstream
        self._end(upstream if upstream is not None and upstream.reusable() else None, failed=False)

    def broken(self, detail: str) -> None:
        self._end(None, failed=True)

    def upstream_ended(self) -> None:
        if self._until_close and self._status:
            self._whole = True
            self._end(None, failed=False)

    def upstream_lost(self, error: Exception | None) -> None:
        self._end(None, failed=True)

    def upstream_blocked(self, blocked: bool) -> None:
        """All of it has been written, however much of that is still here."""

    def _end(self, reusable: UpstreamConnection | None, *, failed: bool) -> None:
        slot, upstream = self._slot, self._upstream
        if self._over or slot is None:
            return
        self._over = True
        self._slot = self._upstream = None
        service = self._service
        service.copies.discard(self)
        now = service.now()
        if failed:
            slot.door.counts.failed(now - self._began)
        elif self._whole:
            slot.door.counts.answered(self._status, now - self._began)
            service.heard(slot)
        if upstream is not None:
            upstream.exchange = None
            if reusable is upstream:
                slot.door.pool.put(upstream, now)
            else:
                upstream.close()
        service.admission.release(slot, now, now - self._began, self._whole and self._status < 500, True)
