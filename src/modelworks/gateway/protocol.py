"""The client's side: one connection, its requests parsed in order and answered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

import httptools

from modelworks.gateway.client import HELD_BY_PIPELINE, Request
from modelworks.gateway.direct import Direct
from modelworks.gateway.exchange import Exchange
from modelworks.gateway.heads import Headers, RequestHead, read_request
from modelworks.gateway.known import KnownRequest, Message, plain_request, remember, whole
from modelworks.gateway.limits import Limits
from modelworks.gateway.problems import HEAD_TOO_LARGE, SLOW_CLIENT, TARGET_TOO_LONG, Problem, bad_request

_LATER = float("inf")


class Router(Protocol):
    """What a connection needs of the gateway."""

    limits: Limits
    draining: bool
    clients: set[ClientConnection]

    def now(self) -> float: ...
    def open(self, client: ClientConnection, head: RequestHead) -> Request: ...
    def known(self, client: ClientConnection, head: RequestHead) -> KnownRequest | None: ...
    def reopen(
        self, client: ClientConnection, known: KnownRequest, length: int | None, body: bytes
    ) -> Exchange | None: ...


class ClientConnection(asyncio.Protocol):
    """``_receiving`` is the request whose bytes come in, ``_current`` the one whose answer goes out; between them wait
    those that were pipelined."""

    __slots__ = (
        "_advancing", "_between", "_bodiless_bytes", "_current", "_ended", "_head_bytes", "_headers", "_held",
        "_in_head", "_key", "_known", "_limits", "_lingering", "_parser", "_pipeline", "_progress", "_read_deadline",
        "_receiving", "_rest", "_router", "_target", "_transport", "_tunnel", "_write_deadline",
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
        self._known: dict[bytes, KnownRequest] = {}
        self._key: bytes | None = None  # of the request that is being parsed, if it may be remembered
        self._target = b""
        self._headers: Headers = []
        self._current: Request | None = None
        self._receiving: Request | None = None
        self._pipeline: deque[Request] = deque()
        self._held = 0
        self._head_bytes = self._bodiless_bytes = 0
        self._in_head = self._progress = self._advancing = False
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
        self._key = None
        if self._between and self._current is None and (message := whole(data)) is not None:
            if self._repeat(message, data):
                return
        elif self._tunnel is not None:
            self._tunnel.tunnel_up(data)
            return
        if self._parser is None:
            self._hold_rest(data)
            return
        self._progress = False
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
        self._parser = None

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
        self._head_bytes = -1
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._ended:
            return
        headers, self._headers = self._headers, []
        parser = self._parser
        head = read_request(parser.get_method(), self._target, parser.get_http_version(), headers, self._limits)
        if isinstance(head, Problem):
            self._enqueue(Direct(self, None, head, 0))
        else:
            if self._key is not None and plain_request(head):
                known = self._router.known(self, head)
                if known is not None:
                    remember(self._known, self._key, known)
            self._enqueue(self._router.open(self, head))

    def on_body(self, data: bytes) -> None:
        self._progress = True
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

    def replace(self, request: Request, successor: Request) -> None:
        """Another one answers in the request's place."""
        if self._receiving is request:
            self._receiving = successor
        if self._current is request:
            self._current = successor
            successor.begin()

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

    def _repeat(self, message: Message, data: bytes) -> bool:
        """Take a request whose head is known past the parser; False when it has to be parsed."""
        known = self._known.get(message.key)
        if known is None:
            self._key = message.key
            return False
        exchange = self._router.reopen(self, known, message.length, data[message.body :])
        if exchange is None:
            return False
        self._read_deadline = _LATER
        self._current = exchange
        exchange.begin()
        exchange.flush()
        return True

    def _enqueue(self, exchange: Request) -> None:
        self._receiving = exchange
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
        """The head is not complete yet."""
        if self._head_bytes < 0:
            # The first read may hold the end of the request before, too: it is bounded by the loop, and not counted.
            self._head_bytes = 0
            self._read_deadline = self.now() + self._limits.head_timeout
        else:
            self._head_bytes += size
        if len(self._target) > self._limits.target:
            self._fail(TARGET_TOO_LONG)
        elif self._head_bytes > self._limits.head:
            self._fail(HEAD_TOO_LARGE)

    def _reading_body(self, receiving: Request, size: int) -> None:
        """The body is not complete yet. Chunk extensions and trailers are no body, and are bounded."""
        self._read_deadline = self.now() + self._limits.stall_timeout
        if self._progress:
            self._bodiless_bytes = 0
            return
        self._bodiless_bytes += size
        head = receiving.head
        if head is not None and head.chunked and self._bodiless_bytes > self._limits.head:
            self._fail(HEAD_TOO_LARGE)

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
