"""The client's side: one connection, its requests parsed in order and answered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import cast

import httptools

from modelworks.gateway.client import HELD_BY_PIPELINE, Request
from modelworks.gateway.direct import Direct
from modelworks.gateway.exchange import Exchange
from modelworks.gateway.heads import Headers, RequestHead, read_request
from modelworks.gateway.intake import Intake
from modelworks.gateway.problems import SLOW_CLIENT, Problem, bad_request
from modelworks.gateway.recall import Recall
from modelworks.gateway.router import Router
from modelworks.gateway.straight import Straight

_LATER = float("inf")


class ClientConnection(asyncio.Protocol):
    """``_receiving`` is the request whose bytes come in, ``_current`` the one whose answer goes out; between them wait
    those that were pipelined."""

    __slots__ = (
        "_advancing", "_between", "_come", "_current", "_ended", "_headers", "_held", "_in_head", "_intake", "_limits",
        "_lingering", "_parser", "_pipeline", "_read_deadline", "_recall", "_receiving",
        "_rest", "_router", "_straight", "_target", "_transport", "_tunnel", "_write_deadline",
        "blocked", "forwarded", "now",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, router: Router) -> None:
        self._router = router
        self._limits = router.limits
        self.now = router.now
        self.blocked = False
        self.forwarded = b""
        self._parser = httptools.HttpRequestParser(self)
        self._between = True  # the parser has read whole requests only, and goes on
        self._recall = Recall()
        self._straight: Straight | None = Straight(self, self._limits.buffer)
        self._target = b""
        self._headers: Headers = []
        self._current: Request | None = None
        self._receiving: Request | None = None
        self._pipeline: deque[Request] = deque()
        self._held = 0
        self._come: float = 0
        self._intake = Intake(self._limits)
        self._in_head = self._advancing = False
        self._ended = self._lingering = False
        self._rest = b""
        self._tunnel: Exchange | None = None
        self._read_deadline = self._write_deadline = _LATER

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) and peer else "unix"
        self.forwarded = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: " % address.encode()
        self._read_deadline = self.now() + self._limits.idle_timeout
        self._router.clients.add(self)
        if len(self._router.clients) > self._limits.connections:
            full = Problem(503, "unavailable", "Too many open connections.", retry_after=1, close=True)
            self._enqueue(Direct(self, None, full, 0))

    def data_received(self, data: bytes) -> None:
        if self._ended and not self._lingering:
            return
        unbroken = self._between and self._current is None
        if (
            unbroken
            and (known := self._recall.find(data)) is not None
            and (straight := self._straight) is not None
            and self._router.repeat(self, straight, known, data)
        ):
            return
        if self._tunnel is not None:
            self._tunnel.tunnel_up(data)
            return
        if self._parser is None:
            self._hold_rest(data)
            return
        self._recall.parsing(data if unbroken else None)
        self._intake.read(len(data), self._between)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._garbled(error)
        if self._ended:
            return
        current = self._current
        if current is not None:
            current.flush()
        receiving = self._receiving
        if self._in_head:
            self._reading_head(len(data))
        elif receiving is not None:
            self._reading_body(receiving, len(data))

    def eof_received(self) -> bool:
        return False  # who has closed its side does not wait for an answer: connection_lost follows

    def connection_lost(self, error: Exception | None) -> None:
        self._router.clients.discard(self)
        self._ended = True
        current, self._current = self._current, None
        self._tunnel = None
        if current is not None:
            current.abort()
        self._pipeline.clear()
        self._receiving = None
        self._parser = self._straight = None

    def pause_writing(self) -> None:
        self.blocked = True
        self._write_deadline = self.now() + self._limits.stall_timeout
        if self._current is not None:
            self._current.client_blocked(True)

    def resume_writing(self) -> None:
        self.blocked = False
        self._write_deadline = _LATER
        if self._current is not None:
            self._current.client_blocked(False)

    # httptools

    def on_message_begin(self) -> None:
        self._between = False

    def on_url(self, url: bytes) -> None:
        if self._in_head:
            self._target += url
            return
        self._target = url
        self._in_head = True
        self._intake.head_begins()
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._ended:
            return
        headers, self._headers = self._headers, []
        parser = self._parser
        head: RequestHead | Problem | None = self._intake.head_ends(self._target, headers)
        if head is None:
            head = read_request(parser.get_method(), self._target, parser.get_http_version(), headers, self._limits)
        if isinstance(head, Problem):
            self._enqueue(Direct(self, None, head, 0))
        else:
            self._recall.learn(head, partial(self._router.known, self))
            self._enqueue(self._router.open(self, head))

    def on_body(self, data: bytes) -> None:
        self._intake.progress = True
        if self._receiving is not None:
            self._receiving.request_body(data)

    def on_message_complete(self) -> None:
        if self._lingering:
            self._lingering = False
            self._transport.close()
            return
        self._between = True
        receiving, self._receiving = self._receiving, None
        self._read_deadline = _LATER
        if receiving is not None:
            receiving.request_end()

    # The exchange's side (Answerable)

    @property
    def draining(self) -> bool:
        return self._router.draining

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def hold(self, reason: int, held: bool) -> None:
        """Stop or go on reading from the client, for one of several reasons."""
        before = self._held
        self._held = before | reason if held else before & ~reason
        if self._ended or bool(before) == bool(self._held):
            return
        if self._held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            if self._receiving is not None:
                self._read_deadline = self.now() + self._limits.stall_timeout

    def done(self, keep: bool) -> None:
        """The current answer is complete."""
        self._current = None
        if not keep:
            self._end()
        elif self._pipeline:
            if not self._advancing:
                self._advance()
        elif self._receiving is None and not self._in_head:
            self._read_deadline = self.now() + self._limits.idle_timeout

    def begun(self, request: Request) -> None:
        """``request`` came as a whole and is on its way."""
        self._current = request
        self._read_deadline = _LATER

    def answer(self, data: bytes, now: float) -> None:
        """The whole answer to the current request, which keeps the connection."""
        self._current = None  # first: writing may say at once that this was too much
        self._transport.write(data)
        if self._pipeline or self._receiving is not None or self._in_head:
            self.done(True)
        else:
            self._read_deadline = now + self._limits.idle_timeout

    def unfolded(self, request: Request, exchange: Request) -> None:
        """The request goes on as ``exchange``."""
        if self._current is request:
            self._current = exchange

    def replace(self, request: Request, successor: Request) -> None:
        """Another one answers in the request's place."""
        if self._receiving is request:
            self._receiving = successor
        if self._current is request:
            self._current = successor
            successor.begin()
        elif request in self._pipeline:
            self._pipeline[self._pipeline.index(request)] = successor

    def refuse(self, request: Request, problem: Problem) -> None:
        """The gateway itself answers in the request's place."""
        direct = Direct(self, request.head, problem, self._limits.discard)
        direct.request_complete = request.request_complete
        self.replace(request, direct)

    def abort(self) -> None:
        """Cut the connection, so that a half answer cannot be taken for a whole one."""
        self._ended = True
        self._transport.abort()

    def close(self) -> None:
        self._ended = True
        self._transport.close()

    def take_rest(self) -> bytes:
        """The exchange has become a tunnel: what the client has already sent into it. The rest comes by itself."""
        if isinstance(self._current, Exchange):
            self._tunnel = self._current
        rest, self._rest = self._rest, b""
        return rest

    # The gateway's housekeeping

    def check(self, now: float) -> None:
        """Called a few times a second: deadlines of both directions."""
        if self._lingering:
            if now > self._read_deadline:
                self._transport.abort()
            return
        if now > self._write_deadline:
            self.abort()
            return
        if now > self._read_deadline and not self._held:
            self._read_deadline = _LATER
            if self._in_head or self._receiving is not None:
                self._fail(SLOW_CLIENT)
            elif self._current is None:
                self.close()
            return
        if self._current is not None:
            self._current.check(now)

    @property
    def idle(self) -> bool:
        return self._current is None and not self._in_head and not self._lingering

    # Inside

    def _enqueue(self, exchange: Request) -> None:
        self._receiving = exchange
        self._come = _LATER  # the first read begins to count
        if self._current is None and not self._pipeline:
            self._current = exchange
            exchange.begin()
        else:
            self._pipeline.append(exchange)
            self.hold(HELD_BY_PIPELINE, True)

    def _advance(self) -> None:
        """Begin the pipelined ones; a loop, since those answered at once could nest too deeply."""
        self._advancing = True
        while self._pipeline and self._current is None and not self._ended:
            exchange = self._current = self._pipeline.popleft()
            exchange.begin()
            exchange.flush()
        self._advancing = False
        if not self._pipeline:
            self.hold(HELD_BY_PIPELINE, False)

    def _reading_head(self, size: int) -> None:
        first, problem = self._intake.head(size, len(self._target))
        if first:
            self._read_deadline = self.now() + self._limits.head_timeout
        if problem is not None:
            self._fail(problem)

    def _reading_body(self, receiving: Request, size: int) -> None:
        limits = self._limits
        self._come += size
        # A byte now and then would hold a replica's place for ever; what is answered already may be a conversation.
        if self._come >= limits.body_rate * limits.stall_timeout or receiving.started:
            self._come = 0
            self._read_deadline = self.now() + limits.stall_timeout
        problem = self._intake.body(size, receiving.head is not None and receiving.head.chunked)
        if problem is not None:
            self._fail(problem)

    def _upgraded(self, rest: bytes) -> None:
        """The parser has met CONNECT or Upgrade: what follows is not HTTP, or not meant for us."""
        self._rest = rest
        self._parser = None
        self._between = False

    def _hold_rest(self, data: bytes) -> None:
        """Sent into a tunnel before it stands, or after a CONNECT that will not be one."""
        self._rest += data
        if len(self._rest) > self._limits.buffer:
            self.abort()

    def _garbled(self, error: httptools.HttpParserError) -> None:
        last = self._pipeline[-1] if self._pipeline else self._current
        if self._ended or (
            self._receiving is None and last is not None and last.head is not None and not last.head.keep_alive
        ):
            return  # bytes after a request that ends the connection
        self._fail(bad_request(f"The request is not valid HTTP: {error}."))

    def _fail(self, problem: Problem) -> None:
        """The request that comes in cannot go on. Those before it are answered still."""
        receiving, self._receiving = self._receiving, None
        self._in_head = False
        if receiving is not None and receiving is self._current:
            if receiving.started:
                receiving.abort()
                self.abort()
                return
            receiving.abort()
            self._current = None
        elif receiving is not None and self._pipeline and self._pipeline[-1] is receiving:
            self._pipeline.pop()
        refusal = Direct(self, None, problem, 0)
        refusal.request_complete = True
        self._enqueue(refusal)
        self._receiving = None
        self._parser = httptools.HttpRequestParser(self)
        self._between = False
        if not self._ended:
            self.hold(HELD_BY_PIPELINE, True)

    def _end(self) -> None:
        """Close after the last answer. With bytes of the client unread the system would reset the connection, and the
        answer could be lost on its way: so they are read and dropped for a moment."""
        self._ended = True
        self._pipeline.clear()
        if self._receiving is None:
            self._transport.close()
            return
        self._receiving = None
        self._lingering = True
        self._read_deadline = self.now() + self._limits.linger
        if self._held:
            self._held = 0
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
