"""One HTTP/1.1 request to one address, its answer taken whole: what replicas and webhooks are called with."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import cast

import httptools

from modelworks import relay
from modelworks.courier.outcome import Answer, Broken
from modelworks.replicasocket import unredirected

LARGEST_ANSWER = 64 * 1024 * 1024
_MOST_HEADERS = 256
_CONNECT_TIMEOUT = 5.0
_IDLE = 10.0  # seconds; a replica closes its idle connections when it likes
# What belongs to the connection, and what a result is told with anew.
_DROPPED = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade", "server", "date",
     "proxy-connection", "proxy-authenticate", "set-cookie")
)  # fmt: skip


class Exchange(asyncio.Protocol):
    """A connection on which one request at a time is answered."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.since = 0.0
        self.reused = False
        self._waiting: asyncio.Future[Answer | Broken] | None = None
        self._headers: list[tuple[str, str]] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._heard = asyncio.Event()
        self._said: Callable[[], None] | None = None
        self._keep = False
        self._head_only = False
        self._parser = httptools.HttpResponseParser(self)

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    async def ask(
        self, data: bytes, *, silence: float, head_only: bool = False, said: Callable[[], None] | None = None
    ) -> Answer | Broken:
        """Send ``data`` and wait. No byte for ``silence`` seconds ends it; ``said`` is called whenever some come."""
        if not self.usable:
            return Broken("the connection was closed", sent=False)
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        self._head_only, self._keep, self._said = head_only, False, said
        self.transport.write(data)
        try:
            while not waiting.done():
                self._heard.clear()
                try:
                    async with asyncio.timeout(silence):
                        await self._heard.wait()
                except TimeoutError:
                    return Broken(f"it said nothing for {silence:g} s", sent=True)
            found: Answer | Broken = waiting.result()
            return found
        finally:
            self._waiting = None
            if not self._keep:
                self.close()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done() and self._parser is not None:
            # A body without a length ends with its connection.
            status = self._status()
            if error is None and status and not self._counted:
                self._end(status)
            else:
                self._settle(Broken(f"the connection was lost{f': {error}' if error else ''}", sent=True))
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self._heard.set()
        if self._waiting is None:
            self.close()
            return
        if self._said is not None:
            self._said()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._settle(Broken("it switched protocols unasked", sent=True))
        except httptools.HttpParserError as error:
            if not self._waiting or not self._waiting.done():
                self._settle(Broken(f"its answer is not valid HTTP: {error}", sent=True))
            self._keep = False

    _counted = True

    def on_message_begin(self) -> None:
        self._headers, self._parts, self._size = [], [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))
        if len(self._headers) > _MOST_HEADERS:
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        names = {name for name, _ in self._headers}
        self._counted = bool(names & {"content-length", "transfer-encoding"})
        if self._head_only and self._status() >= 200:
            self._end(self._status())

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > LARGEST_ANSWER:
            self._settle(
                Answer(
                    502,
                    (("content-type", "text/plain; charset=utf-8"),),
                    b"The answer is larger than 64 MiB: write it to a bucket and answer its address.\n",
                )
            )
            self.close()
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        status = self._status()
        if status >= 200:
            self._keep = self._parser.should_keep_alive() and not self._head_only
            self._end(status)

    def _status(self) -> int:
        return int(self._parser.get_status_code())

    def _end(self, status: int) -> None:
        kept = [(name, value) for name, value in self._headers if name not in _DROPPED]
        self._settle(Answer(status, kept, b"".join(self._parts)))

    def _settle(self, found: Answer | Broken) -> None:
        self._heard.set()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(found)


class Pool:
    """Kept connections to one replica: ``target`` is a Unix socket's path, or host and port; ``preface`` opens the way
    through a relay."""

    def __init__(self, target: str | tuple[str, int], preface: Callable[[], bytes] | None = None) -> None:
        self._target = target
        self._preface = preface
        self._idle: list[Exchange] = []
        self.closed = False

    async def ask(
        self, data: bytes, *, silence: float, head_only: bool = False, said: Callable[[], None] | None = None
    ) -> Answer | Broken:
        """The answer to ``data``, a whole request. See :meth:`Exchange.ask`."""
        now = asyncio.get_running_loop().time()
        exchange = self._take(now)
        if exchange is None:
            try:
                exchange = await self._connect()
            except OSError as error:
                return Broken(f"nobody listens there: {error}", sent=False)
        try:
            found = await exchange.ask(data, silence=silence, head_only=head_only, said=said)
        except BaseException:
            exchange.close()
            raise
        if exchange.usable and not self.closed:
            exchange.since = asyncio.get_running_loop().time()
            self._idle.append(exchange)
        else:
            exchange.close()
        return found

    def close(self) -> None:
        self.closed = True
        for exchange in self._idle:
            exchange.close()
        self._idle.clear()

    async def _connect(self) -> Exchange:
        if self._preface is None or isinstance(self._target, str):
            return await connect(self._target)
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            through = await relay.connect(self._target, self._preface())
            _, exchange = await asyncio.get_running_loop().create_connection(Exchange, sock=through)
        return exchange

    def _take(self, now: float) -> Exchange | None:
        while self._idle:
            exchange = self._idle.pop()
            if exchange.usable and now - exchange.since < _IDLE:
                return exchange
            exchange.close()
        return None


async def connect(
    target: str | tuple[str, int], *, tls: ssl.SSLContext | None = None, name: str | None = None
) -> Exchange:
    """A new connection. Raises OSError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_CONNECT_TIMEOUT):
        if isinstance(target, str):
            with unredirected(target) as path:
                _, exchange = await loop.create_unix_connection(Exchange, path)
        else:
            _, exchange = await loop.create_connection(Exchange, *target, ssl=tls, server_hostname=name)
    return exchange


def request(method: str, path: str, host: str, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
