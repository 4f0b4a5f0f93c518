"""One request and its answer: from admission over a replica's connection back to the client."""

from __future__ import annotations

from modelworks.gateway.answer import Answer
from modelworks.gateway.capture import Record
from modelworks.gateway.client import HELD_BY_UPSTREAM, HELD_FOR_REPLICA, Answerable
from modelworks.gateway.entering import Entering
from modelworks.gateway.events import Events, is_event_stream
from modelworks.gateway.heads import RequestHead, ResponseHead, split_lines
from modelworks.gateway.hint import LINE, Hint, may_want
from modelworks.gateway.known import WholeAnswer, plain_request
from modelworks.gateway.lanes import Slot
from modelworks.gateway.problems import Problem
from modelworks.gateway.service import Service
from modelworks.gateway.upstream import UpstreamConnection

_LOST_RETRIES = 2


class Exchange(Entering):
    """A request on its way, and its answer."""

    __slots__ = ("_answer", "_events", "_hint", "_losses", "_record", "_started")

    def __init__(
        self, client: Answerable, service: Service, head: RequestHead, out: bytes, buffer: int, complete: bool = False
    ) -> None:
        super().__init__(client, service, head, out, buffer, complete)
        self._started = False
        self._answer: Answer | None = None
        self._losses = 0
        self._events: Events | None = None
        self._hint = Hint() if may_want(head) else None
        capture = service.capture
        self._record = capture.draw(service.route, head, out if complete else None) if capture is not None else None

    # The client's side

    def request_body(self, data: bytes) -> None:
        if self._hint is not None:
            self._hint.add(data)
        if self._record is not None:
            self._record.request.add(data)
        super().request_body(data)

    def sent(self, slot: Slot, upstream: UpstreamConnection, began: float) -> None:
        """It has its turn, its replica and its connection already, and all of it went there at ``began``."""
        self._slot = slot
        self._upstream = upstream
        self._began = self._entered = began
        self._queue_deadline = began + self._service.route.queue_timeout
        self._deadline = began + self._service.route.keepalive
        self._out.take()
        if self._client.blocked:
            self._recount()

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
        self._recount()

    def check(self, now: float) -> None:
        """Called now and then: a replica that does not begin to answer in time is given up."""
        if self._started or self._upstream is None or not self._deadline:
            return
        if self.request_complete and now > self._deadline:
            self._blame()
            self.fail(self._service.silent())
        elif now > self._wanted:
            self.fail(self._service.unwanted())

    def abort(self) -> None:
        """The client has gone, or its bytes cannot be trusted: nothing is wanted any more."""
        if self._over:
            return
        if self._slot is None:
            self._unqueue()
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
            self._unqueue()
        self._service.metrics.rejected(problem.code)
        self._tear_down()
        if self._started:
            self._client.abort()
        else:
            self._client.refuse(self, problem)

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
        if self._record is not None:
            self._record.answering(split_lines(known.lines))
            self._record.answer.add(body)
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
            if self._events is not None:
                self._events.add(data, self._client.now())
            if self._record is not None:
                self._record.answer.add(data)

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
        if self._slot is not None:
            self._service.heard(self._slot)
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
        self._blame()
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
            self._out.again()
            self._deadline, self._answer = 0.0, None
            if upstream.reused:
                self._service.metrics.retries += 1
                slot.door.pool.connect(self)
            else:
                # It is ending: what it accepted and did not read is for another one.
                self.connect_failed(error if isinstance(error, OSError) else ConnectionResetError())
        else:
            self.broken(f"the connection ended before the answer did ({error or 'closed'})")

    def upstream_blocked(self, blocked: bool) -> None:
        self._client.hold(HELD_BY_UPSTREAM, blocked)

    # Inside

    def _begin_answer(self, answer: Answer, response: ResponseHead) -> None:
        slot, upstream, client, head = self._slot, self._upstream, self._client, self.head
        assert slot is not None
        assert upstream is not None
        keep = head.keep_alive and self.request_complete and not client.draining
        if self.request_complete and self._deadline:
            service = self._service
            service.silence.note(client.now() - (self._deadline - service.route.keepalive))
        answer.head(response, head, self._ours(slot), keep)
        if is_event_stream(response):
            self._events = Events(slot.door.counts, self._began)
        if self._record is not None:
            self._record.answering(response.lines)
        if answer.whole and (response.length or response.chunked or response.length is None):
            upstream.expect_no_body()

    def _ours(self, slot: Slot) -> bytes:
        """Our lines in the answer's head."""
        door = slot.door
        queued = self._entered - self._began
        lines = b"%b%d\r\n" % (door.lines, queued * 1000) if queued and door.lines else door.unqueued
        return lines + LINE if self._hint is not None and self._hint.wanted else lines

    def _switch(self, answer: Answer, response: ResponseHead) -> None:
        upstream = self._upstream
        if self.head.upgrade is None or response.upgrade is None or upstream is None:
            self.broken("it switched protocols unasked")
            return
        self.tunnel = True
        self._recount()
        answer.switch(response, response.upgrade)
        rest = self._client.take_rest()
        if rest:
            upstream.transport.write(rest)

    def _finish(self, slot: Slot, upstream: UpstreamConnection, status: int, reusable: bool, keep: bool) -> None:
        client, service = self._client, self._service
        self._over = True
        self._upstream = None
        now = client.now()
        slot.door.counts.answered(status, now - self._began)
        service.heard(slot)
        if self._record is not None:
            self._tell(self._record, slot, status, now)
        if reusable:
            if client.blocked:
                upstream.transport.resume_reading()
            upstream.exchange = None
            slot.door.pool.put(upstream, now)
        else:
            upstream.close()
        self._leave(slot, now, now - self._entered, status < 500)
        client.done(keep)

    def _tell(self, record: Record, slot: Slot, status: int, now: float) -> None:
        capture = self._service.capture
        if capture is not None:
            replica = slot.replica
            queued = self._entered - self._began
            line = record.line(
                status=status, seconds=now - self._began, queued=queued, replica=replica.id, revision=replica.revision
            )
            capture.send(line)

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

    def _blame(self) -> None:
        """No whole answer will come, and the replica is why."""
        if self._slot is not None and not self._over:
            self._slot.door.counts.failed(self._client.now() - self._began)
            if self._answer is not None:
                self._answer.status = 0  # it is counted

    def _unqueue(self) -> None:
        self._service.admission.cancel(self)
        self._uncount()

    def _tear_down(self) -> None:
        self._over = True
        upstream, slot = self._upstream, self._slot
        self._upstream = None
        self._out.drop()
        if upstream is not None:
            upstream.close()
        self._client.hold(HELD_FOR_REPLICA | HELD_BY_UPSTREAM, False)
        if slot is not None:
            now = self._client.now()
            if self._status:
                slot.door.counts.answered(self._status, now - self._began)
            self._leave(slot, now, now - self._entered)
