"""The courier's door: HTTP/1.1 on its Unix socket, each request read whole and answered by a coroutine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools

from modelworks.gateway.problems import STATUS_LINES, Problem

LARGEST_BODY = 4 * 1024 * 1024
_LARGEST_HEAD = 64 * 1024
log = logging.getLogger("modelworks.courier.http")

TOO_LARGE = Problem(
    413,
    "too-large",
    f"The body of a task is larger than {LARGEST_BODY} bytes.",
    remedy="Put large inputs into a bucket and send their address.",
    close=True,
)


@dataclass(frozen=True)
class Request:
    """``target`` is path and query; ``headers`` are in the order they came, names in lower case."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True)
class Reply:
    """``stream``: the body comes in parts, until the iterator ends."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = field(default=None, compare=False)


Handler = Callable[[Request], Awaitable[Reply | Problem]]


class Connection(asyncio.Protocol):
    """Requests one after another; a pipelined one waits. ``open`` holds the connections there are."""

    def __init__(self, handler: Handler, open_connections: set[Connection], draining: Callable[[], bool]) -> None:
        self._handler, self._open, self._draining = handler, open_connections, draining
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: list[tuple[Request | Problem, bool]] = []
        self._working: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._begin()

    @property
    def idle(self) -> bool:
        return self._working is None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)
        self._transport = None
        self._writable.set()
        if self._working is not None:
            self._working.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(Problem(400, "bad-request", "An asynchronous service has no WebSockets.", close=True))
        except httptools.HttpParserError as error:
            if not self._refused:
                self._refuse(Problem(400, "bad-request", f"The request is not valid HTTP: {error}.", close=True))

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > _LARGEST_HEAD:
            self._refuse(Problem(431, "head-too-large", "The request's headers are too large.", close=True))
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > LARGEST_BODY:
            self._refuse(TOO_LARGE)
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, self._target.decode("latin-1"), self._headers, b"".join(self._parts))
        self._enqueue(request, self._parser.should_keep_alive())

    _refused = False

    def _begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._parts: list[bytes] = []
        self._head = self._size = 0

    def _refuse(self, problem: Problem) -> None:
        if not self._refused:
            self._refused = True
            self._parts = []
            self._enqueue(problem, keep=False)

    def _enqueue(self, request: Request | Problem, keep: bool) -> None:
        self._queue.append((request, keep))
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())
        elif self._transport is not None:
            self._transport.pause_reading()

    async def _work(self) -> None:
        try:
            while self._queue and self._transport is not None:
                request, keep = self._queue.pop(0)
                keep = await self._answer(request, keep)
                if not keep or self._draining():
                    self.close()
                    return
                if not self._queue and self._transport is not None:
                    self._transport.resume_reading()
        finally:
            self._working = None

    async def _answer(self, request: Request | Problem, keep: bool) -> bool:
        reply: Reply | Problem
        head_only = isinstance(request, Request) and request.method == "HEAD"
        if isinstance(request, Problem):
            reply = request
        else:
            try:
                reply = await self._handler(request)
            except Exception:
                log.exception("a request could not be answered")
                reply = Problem(500, "internal", "The courier failed; its log says more.")
        if isinstance(reply, Problem):
            keep = keep and not reply.close
            self._write(reply.response(keep_alive=keep, head_only=head_only))
            return keep
        lines = [STATUS_LINES.get(reply.status, b"HTTP/1.1 %d \r\n" % reply.status)]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in reply.headers]
        keep = keep and not self._draining()
        if not keep:
            lines.append(b"Connection: close\r\n")
        if reply.stream is None:
            if reply.status not in (204, 304):
                lines.append(b"Content-Length: %d\r\n" % len(reply.body))
            self._write(b"".join(lines) + b"\r\n" + (b"" if head_only or reply.status in (204, 304) else reply.body))
            return keep
        self._write(b"".join(lines) + b"Transfer-Encoding: chunked\r\n\r\n")
        async for part in reply.stream:
            self._write(b"%x\r\n%b\r\n" % (len(part), part))
            await self._writable.wait()
        self._write(b"0\r\n\r\n")
        return keep

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
