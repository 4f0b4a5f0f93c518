"""One request and its answer: from admission over a replica's connection back to the client."""

from __future__ import annotations

from modelworks.gateway.admission import QueueFull, Slot
from modelworks.gateway.answer import Answer
from modelworks.gateway.client import HELD_BY_UPSTREAM, HELD_FOR_REPLICA, Answerable
from modelworks.gateway.heads import RequestHead, ResponseHead
from modelworks.gateway.known import WholeAnswer, plain_request
from modelworks.gateway.outgoing import Outgoing
from modelworks.gateway.problems import NO_SUCH_SERVICE, Problem
from modelworks.gateway.service import Service
from modelworks.gateway.upstream import UpstreamConnection

_LOST_RETRIES = 2


class Exchange:
    """A request on its way. The client's connection feeds ``request_body`` and calls ``flush`` once for each read."""

    __slots__ = (
        "_answer", "_attempts", "_began", "_client", "_deadline", "_entered", "_losses", "_out", "_over",
        "_queue_deadline", "_service", "_slot", "_started", "_upstream", "head", "request_complete", "tunnel",
    )  # fmt: skip

    def __init__(
        self, client: Answerable, service: Service, head: RequestHead, out: bytes, buffer: int, complete: bool = False
    ) -> None:
        """``out``: the head for the replica, or the whole request if it is ``complete``."""
        self.head = head
        self.request_complete = complete
        self.tunnel = self._started = self._over = False
        self._client = client
        self._service = service
        self._out = Outgoing(out, buffer, chunked=head.chunked)
        self._answer: Answer | None = None
        self._slot: Slot | None = None
        self._upstream: UpstreamConnection | None = None
        self._attempts = self._losses = 0
        self._entered = self._deadline = 0.0

    # The client's side

    def begin(self) -> None:
        """Its turn on the connection has come: ask for admission."""
        service = self._service
        self._began = now = self._client.now()
        self._queue_deadline = now + service.route.queue_timeout
        try:
            slot = service.admission.enter(self, now)
        except QueueFull as full:
            self._refuse(service.queue_full(full.retry_after))
            return
        if slot is not None:
            self._entered = now
            self._go(slot, now)

    def sent(self, slot: Slot, upstream: UpstreamConnection, began: float) -> None:
        """It has its turn, its replica and its connection already, and all of it went there at ``began``."""
        self._slot = slot
        self._upstream = upstream
        self._began = self._entered = began
        self._queue_deadline = began + self._service.route.queue_timeout
        self._deadline = began + self._service.route.keepalive
        self._out.take()

    def request_body(self, data: bytes) -> None:
        out = self._out
        waiting = self._upstream is None
        out.add(data, waiting=waiting)
        if out.received > self._service.route.max_body:
            self.fail(self._service.too_large())
        elif waiting and out.full:
            self._client.hold(HELD_FOR_REPLICA, True)

    def request_end(self) -> None:
        self.request_complete = True
        self._out.end()

    def flush(self) -> None:
        """Send what has come from the client since the last time."""
        upstream = self._upstream
        if upstream is None or not (data := self._out.take()):
            return
        since = self._client.now() if self._deadline else self._entered
        self._deadline = since + self._service.route.keepalive
        if not upstream.lost:
            upstream.transport.write(data)

    def tunnel_up(self, data: bytes) -> None:
        """After 101: the client's bytes as they are."""
        if self._upstream is not None:
            self._upstream.transport.write(data)

    def client_blocked(self, blocked: bool) -> None:
        if self._upstream is not None and not self._upstream.lost:
            if blocked:
                self._upstream.transport.pause_reading()
            else:
                self._upstream.transport.resume_reading()

    def check(self, now: float) -> None:
        """Called now and then: a replica that does not begin to answer in time is given up."""
        if (
            self.request_complete
            and self._deadline
            and not self._started
            and now > self._deadline
            and self._upstream is not None
        ):
            self.fail(self._service.silent())

    def abort(self) -> None:
        """The client has gone, or its bytes cannot be trusted: nothing is wanted any more."""
        if self._over:
            return
        if self._slot is None:
            self._service.admission.cancel(self)
        if not self.tunnel:
            self._service.metrics.rejected("client-gone")
        self._tear_down()

    @property
    def started(self) -> bool:
        """Whether a part of the answer has gone to the client."""
        return self._started

    def fail(self, problem: Problem) -> None:
        """End it with ``problem``, or by cutting the connection when an answer has already begun."""
        if self._over:
            return
        if self._slot is None:
            self._service.admission.cancel(self)
        self._service.metrics.rejected(problem.code)
        self._tear_down()
        if self._started:
            self._client.abort()
        else:
            self._client.refuse(self, problem)

    # Admission

    def granted(self, slot: Slot) -> None:
        self._entered = now = self._client.now()
        self._go(slot, now)
        self.flush()

    def expired(self) -> None:
        """Its time in the queue is over."""
        self._refuse(self._service.unreachable() if self._attempts else self._service.queue_timeout())

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
        self._slot = None
        self._attempts += 1
        now = self._client.now()
        patient = self._attempts < service.patience
        if patient:
            service.admission.suspect(slot, now)
        service.admission.release(slot, None)
        if not patient:
            self._refuse(service.unreachable())
            return
        service.metrics.retries += 1
        again = service.admission.reenter(self, self._queue_deadline)
        if again is not None:
            self._go(again, now)
            self.flush()

    # The upstream's side

    def unfold(self) -> Exchange:
        """It knows all cases already."""
        return self

    def answer_known(self, known: WholeAnswer, data: bytes) -> bool:
        """The whole answer at once; False when it is not as plain for this client as it was for others."""
        slot, upstream, client, head = self._slot, self._upstream, self._client, self.head
        if (
            self._answer is not None
            or not self.request_complete
            or client.draining
            or not plain_request(head)
            or slot is None
            or upstream is None
        ):
            return False
        self._started = True
        body = data[known.body :]
        client.write(b"%b%bContent-Length: %d\r\n\r\n%b" % (known.lines, self._ours(slot), known.length, body))
        self._finish(slot, upstream, known.status, True, True)
        return True

    def answer_head(self, response: ResponseHead | None) -> None:
        """``response`` is None when its framing cannot be trusted."""
        answer = self._answer
        if answer is None:
            answer = self._answer = Answer()
        if response is None:
            self.broken("the length of its answer is ambiguous")
        elif response.status >= 200:
            self._begin_answer(answer, response)
        elif response.status == 101:
            self._switch(answer, response)
        else:
            answer.interim(response, self.head)

    def answer_body(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer.body(data)

    def answer_end(self) -> None:
        if self._answer is not None:
            self._answer.end()

    def answered(self) -> bool:
        return self._answer is not None and self._answer.whole

    def switched(self) -> bool:
        """Whether the replica has just answered 101."""
        return self.tunnel

    def silent(self) -> bool:
        """Whether the replica has said nothing final yet."""
        return not self._status

    def deliver(self) -> None:
        """Send what has come from the replica since the last time."""
        if self._answer is not None and (data := self._answer.take()):
            self._started = True
            self._client.write(data)

    def tunnel_down(self, data: bytes) -> None:
        self._client.write(data)

    def finish(self) -> None:
        """The answer is whole and delivered."""
        upstream, slot, answer = self._upstream, self._slot, self._answer
        if self._over or upstream is None or slot is None or answer is None:
            return
        reusable = self.request_complete and not answer.until_close and upstream.reusable()
        self._finish(slot, upstream, answer.status, reusable, answer.keep)

    def broken(self, detail: str) -> None:
        """What the replica says cannot be passed on."""
        self.fail(self._service.broken(detail))

    def upstream_ended(self) -> None:
        """The replica has closed its side."""
        if self._answer is not None and self._answer.until_close and self._started:
            self._answer.end()
            self.deliver()
            self.finish()

    def upstream_lost(self, error: Exception | None) -> None:
        upstream, slot, answer = self._upstream, self._slot, self._answer
        if upstream is None or slot is None:
            return
        self._upstream = None
        if self.tunnel:
            self._tear_down()
            self._client.close()
        elif answer is not None and answer.until_close and self._started and error is None:
            answer.whole = True
            self._tear_down()
            self._client.done(False)
        elif self._may_repeat(upstream, slot, error):
            self._losses += 1
            self._service.metrics.retries += 1
            self._out.again()
            self._deadline, self._answer = 0.0, None
            slot.door.pool.connect(self)
        else:
            self.broken(f"the connection ended before the answer did ({error or 'closed'})")

    def upstream_blocked(self, blocked: bool) -> None:
        self._client.hold(HELD_BY_UPSTREAM, blocked)

    # Inside

    def _go(self, slot: Slot, now: float) -> None:
        self._slot = slot
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
        connection.exchange = self
        client = self._client
        if client.blocked:
            connection.transport.pause_reading()
        if self._out.full:
            client.hold(HELD_FOR_REPLICA, False)
        if self.head.expects and not self.request_complete and not self._out.received:
            client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _begin_answer(self, answer: Answer, response: ResponseHead) -> None:
        slot, upstream, client, head = self._slot, self._upstream, self._client, self.head
        assert slot is not None
        assert upstream is not None
        keep = head.keep_alive and self.request_complete and not client.draining
        answer.head(response, head, self._ours(slot), keep)
        if answer.whole and (response.length or response.chunked or response.length is None):
            upstream.expect_no_body()

    def _ours(self, slot: Slot) -> bytes:
        """Our lines in the answer's head."""
        door = slot.door
        queued = self._entered - self._began
        return b"%b%d\r\n" % (door.lines, queued * 1000) if queued and door.lines else door.unqueued

    def _switch(self, answer: Answer, response: ResponseHead) -> None:
        upstream = self._upstream
        if self.head.upgrade is None or response.upgrade is None or upstream is None:
            self.broken("it switched protocols unasked")
            return
        self.tunnel = True
        answer.switch(response, response.upgrade)
        rest = self._client.take_rest()
        if rest:
            upstream.transport.write(rest)

    def _finish(self, slot: Slot, upstream: UpstreamConnection, status: int, reusable: bool, keep: bool) -> None:
        client, service = self._client, self._service
        self._over = True
        self._upstream = self._slot = None
        now = client.now()
        service.metrics.answered(status, now - self._began)
        if reusable:
            if client.blocked:
                upstream.transport.resume_reading()
            upstream.exchange = None
            slot.door.pool.put(upstream, now)
        else:
            upstream.close()
        service.admission.release(slot, now - self._entered)
        client.done(keep)

    @property
    def _status(self) -> int:
        """Of the final answer; 0 while there is none."""
        return self._answer.status if self._answer is not None else 0

    def _may_repeat(self, upstream: UpstreamConnection, slot: Slot, error: Exception | None) -> bool:
        if self._started or self._status or self._losses >= _LOST_RETRIES:
            return False
        unix = slot.replica.address.startswith("unix:")
        complete = self.request_complete
        return self._out.repeatable(upstream, self.head.method, error, complete=complete, unix=unix)

    def _refuse(self, problem: Problem) -> None:
        """Answer without a replica."""
        self._over = True
        self._service.metrics.rejected(problem.code)
        self._client.hold(HELD_FOR_REPLICA, False)
        self._client.refuse(self, problem)

    def _tear_down(self) -> None:
        self._over = True
        upstream, slot = self._upstream, self._slot
        self._upstream = self._slot = None
        self._out.drop()
        if upstream is not None:
            upstream.close()
        self._client.hold(HELD_FOR_REPLICA | HELD_BY_UPSTREAM, False)
        if slot is not None:
            now = self._client.now()
            if self._status:
                self._service.metrics.answered(self._status, now - self._began)
            self._service.admission.release(slot, now - self._entered)
