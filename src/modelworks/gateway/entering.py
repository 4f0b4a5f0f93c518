"""A request on its way to a replica: its place in the queue, its deadlines, its connection, and what waits with it."""

from __future__ import annotations

import time

from modelworks.gateway.admission import Refused
from modelworks.gateway.client import HELD_FOR_REPLICA, Answerable
from modelworks.gateway.heads import RequestHead
from modelworks.gateway.lanes import Slot, whole_seconds
from modelworks.gateway.mirror import Copying
from modelworks.gateway.outgoing import Outgoing
from modelworks.gateway.problems import NO_SUCH_SERVICE, Problem
from modelworks.gateway.service import Service
from modelworks.gateway.upstream import UpstreamConnection

_NEVER = float("inf")


class Entering:
    """The part of an exchange before its answer. The client's connection feeds ``request_body`` and calls ``flush``
    once for each read."""

    __slots__ = (
        "_attempts", "_began", "_client", "_copy", "_counted", "_deadline", "_entered", "_excused", "_gathering",
        "_key", "_out", "_over", "_queue_deadline", "_service", "_slot", "_upstream", "_waiting", "_wanted", "head",
        "request_complete", "tunnel",
    )  # fmt: skip

    def __init__(
        self, client: Answerable, service: Service, head: RequestHead, out: bytes, buffer: int, complete: bool = False
    ) -> None:
        """``out``: the head for the replica, or the whole request if it is ``complete``."""
        self.head = head
        self.request_complete = complete
        self.tunnel = self._over = self._excused = self._gathering = False
        self._client = client
        self._service = service
        self._out = Outgoing(out, buffer, chunked=head.chunked)
        self._waiting = len(out)  # bytes that it holds while it has no replica
        self._counted = False  # whether these are counted with those of all that wait
        self._copy: Copying | None = None
        self._key: bytes | None = None
        self._slot: Slot | None = None
        self._upstream: UpstreamConnection | None = None
        self._attempts = 0
        self._entered = self._deadline = 0.0
        self._wanted = _NEVER

    # The client's side

    def begin(self) -> None:
        """Its turn on the connection has come: ask for admission, when a body that is small has come whole."""
        timeout = self.head.timeout
        if timeout is not None:
            self._wanted = self._client.now() + timeout
        if not self.request_complete and self._service.gathers(self.head):
            # However slowly it comes, no replica keeps a place for it meanwhile.
            self._gathering = True
            self._count()
        else:
            self._ask()

    def _ask(self) -> None:
        """Ask for admission."""
        service = self._service
        self._began = now = self._client.now()
        self._queue_deadline = until = now + service.patience
        if self._gathering:
            self._gathering = False
            self._uncount()
            problem = NO_SUCH_SERVICE if service.removed else service.unavailable()
            if problem is not None:
                self._refuse(problem)
                return
        if service.bucket is not None and (seconds := service.bucket.take(now)):
            self._refuse(service.too_many(whole_seconds(seconds)))
            return
        self._key = service.key(self.head)
        try:
            slot = service.enter(self, now, until, None if self._wanted == _NEVER else self._wanted, self._key)
        except Refused as refused:
            retry_after, queued = refused.retry_after, service.admission.queued
            self._refuse(service.queue_full(queued, retry_after) if refused.full else service.too_late(retry_after))
            return
        if service.route.mirror is not None and service.mirrored():
            out = self._out
            self._copy = Copying(service, self.head, out.whole, out.received, self.request_complete)
        if slot is not None:
            self._entered = now
            self._go(slot, now)
        elif service.waiting.bytes + self._waiting > service.waiting.most:
            service.admission.cancel(self)
            self._refuse(service.too_much_waits(service.admission.retry_after()))
        else:
            self._count()

    def request_body(self, data: bytes) -> None:
        out = self._out
        waiting = self._upstream is None
        out.add(data, waiting=waiting)
        if self._copy is not None:
            self._copy.add(data)
        if out.received > self._service.route.max_body:
            self.fail(self._service.too_large())
        elif waiting and not self._over:
            self._waiting += len(data)
            if self._counted:
                self._service.waiting.bytes += len(data)
            if self._gathering:
                if self._service.waiting.tight:
                    self._ask()
            elif out.full or self._service.waiting.tight:
                self._client.hold(HELD_FOR_REPLICA, True)

    def request_end(self) -> None:
        self.request_complete = True
        self._out.end()
        if self._copy is not None:
            self._copy.end()
        if self._gathering:
            self._ask()
        elif self._excused:
            self._recount()

    def flush(self) -> None:
        """Send what has come from the client since the last time."""
        upstream = self._upstream
        if upstream is None or not (data := self._out.take()):
            return
        since = self._client.now() if self._deadline else self._entered
        self._deadline = since + self._service.route.keepalive
        if not upstream.lost:
            upstream.transport.write(data)

    def fail(self, problem: Problem) -> None:
        """End it with ``problem``."""
        raise NotImplementedError

    # Admission

    def granted(self, slot: Slot) -> None:
        self._entered = now = self._client.now()
        self._service.metrics.waits.add(now - self._began)
        self._go(slot, now)
        self.flush()

    def expired(self, due: float) -> None:
        """Its time in the queue is over, since ``due``."""
        service = self._service
        if self._attempts:
            self._refuse(service.unreachable())
        elif not service.admission.slots:
            self._refuse(service.no_replicas())
        else:
            self._refuse(service.too_late(service.admission.retry_after()), due)

    def dismissed(self) -> None:
        """Its service has stopped or is gone."""
        self._refuse(self._service.unavailable() or NO_SUCH_SERVICE)

    # Connecting

    def connected(self, connection: UpstreamConnection) -> None:
        if self._over or self._slot is None:
            connection.close()
            return
        self._attach(connection)
        self.flush()

    def connect_failed(self, error: OSError) -> None:
        slot = self._slot
        if self._over or slot is None:
            return
        service = self._service
        self._attempts += 1
        now = self._client.now()
        until = min(self._queue_deadline, self._wanted)
        patient = service.patient and now < until
        if patient:
            service.admission.suspect(slot, now)
        self._leave(slot, now, None)
        if not patient:
            self._refuse(service.unreachable())
            return
        service.metrics.retries += 1
        again = service.reenter(self, now, until, self._key)
        if again is not None:
            self._go(again, now)
            self.flush()
        else:
            self._count()

    # Inside

    def _go(self, slot: Slot, now: float) -> None:
        self._slot = slot
        if self._counted:
            self._uncount()
        if not self.request_complete or self._client.blocked:
            self._recount()
        pool = slot.door.pool
        connection = pool.take(now)
        if connection is None:
            pool.connect(self)
        else:
            self._attach(connection)

    def _attach(self, connection: UpstreamConnection) -> None:
        slot = self._slot
        assert slot is not None
        slot.failures = 0
        self._upstream = connection
        connection.exchange = self  # type: ignore[assignment]  # it is an Exchange
        client = self._client
        if self._wanted != _NEVER:
            self._out.stamp(b"X-Mw-Timeout-Ms: %d\r\n" % max(1, (self._wanted - client.now()) * 1000))
        if client.blocked:
            connection.transport.pause_reading()
        # Whoever was held may have been so for the memory of all, and not for its own size.
        client.hold(HELD_FOR_REPLICA, False)
        if self.head.expects and not self.request_complete and not self._out.received:
            client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _recount(self) -> None:
        """Whether its replica owes it a word now: not while the client still sends, or does not read."""
        slot = self._slot
        if slot is None:
            return
        excused = not self.request_complete or self.tunnel or self._client.blocked
        if excused != self._excused:
            self._excused = excused
            if not excused and slot.in_flight == slot.excused:
                slot.heard = self._client.now() - slot.silent  # it owes nobody else a word
            slot.excused += 1 if excused else -1

    def _leave(self, slot: Slot, now: float, held: float | None, good: bool = False) -> None:
        """Its slot is for another one."""
        self._slot = None
        if self._excused:
            self._excused = False
            slot.excused -= 1
        elif held is not None and slot.in_flight - 1 <= slot.excused:
            # Clients that give up early must not hide that nothing is ever said to them.
            slot.silent = now - slot.heard
        self._service.admission.release(slot, now, held, good)

    def _count(self) -> None:
        """Its bytes are among those that wait in memory for a replica."""
        self._counted = True
        self._service.waiting.bytes += self._waiting

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._service.waiting.bytes -= self._waiting

    def _refuse(self, problem: Problem, since: float | None = None) -> None:
        """Answer without a replica, for what is known ``since`` then (None: since it began)."""
        self._over = True
        self._uncount()
        self._service.metrics.rejected(problem.code)
        self._client.hold(HELD_FOR_REPLICA, False)
        self._client.refuse(self, problem)  # type: ignore[arg-type]  # it is an Exchange
        if problem.status == 429:
            # Not by the loop's own clock, which stands still while it does what is due.
            self._service.metrics.refusals.add(time.monotonic() - (self._began if since is None else since))
