"""One HTTP/1.1 connection that is kept alive, one request at a time: as little of the protocol as a generator needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

_LONGEST_HEAD = 64 * 1024
TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Answer:
    """``status`` 0: none came, and ``failure`` says why. ``queued`` is the gateway's queue time in seconds."""

    status: int
    failure: str = ""
    queued: float | None = None
    size: int = 0


class Connection(asyncio.Protocol):
    """Calls ``ended(answer)`` once for each :meth:`send`. After ``reusable`` is False it must be thrown away."""

    def __init__(self) -> None:
        self.reusable = True
        self._transport: asyncio.Transport | None = None
        self._ended: Callable[[Answer], None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._buffer = b""
        self._status = 0
        self._queued: float | None = None
        self._left: int | None = None  # bytes of the body; None: to the end of the connection
        self._chunked = False
        self._in_body = False
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes, ended: Callable[[Answer], None]) -> None:
        assert self._transport is not None
        assert self._ended is None
        self._begin()
        self._ended = ended
        self._transport.write(request)

    def close(self) -> None:
        """Without telling what becomes of the request that is under way."""
        self.reusable, self._ended = False, None
        if self._transport is not None:
            self._transport.abort()

    def timed_out(self) -> None:
        """Give the answer up."""
        self._finish(Answer(0, TIMED_OUT), reusable=False)

    def data_received(self, data: bytes) -> None:
        if self._ended is None:  # an answer that nobody asked for
            self.close()
            return
        self._buffer += data
        try:
            while not self._in_body and self._head():
                pass
            if self._in_body:
                self._body()
        except ValueError as error:
            self._finish(Answer(0, f"not HTTP: {error}"), reusable=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._ended is None:
            return
        whole = self._in_body and not self._chunked and self._left is None
        self._finish(
            Answer(self._status, queued=self._queued, size=self._size) if whole else Answer(0, "connection cut"),
            reusable=False,
        )

    def _head(self) -> bool:
        """Read a head if it is there; True when another one follows, as after 100 Continue."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LONGEST_HEAD:
                raise ValueError("a head without end")
            return False
        first, *lines = self._buffer[:end].split(b"\r\n")
        self._buffer = self._buffer[end + 4 :]
        words = first.split(b" ", 2)
        if not words[0].startswith(b"HTTP/1.") or len(words) < 2:
            raise ValueError("no status line")
        status = int(words[1])
        if 100 <= status < 200:
            return bool(self._buffer)
        self._status = status
        self._in_body = True
        for line in lines:
            name, _, value = line.partition(b":")
            self._field(name.strip().lower(), value.strip())
        if words[0] == b"HTTP/1.0":
            self.reusable = False
        if status in (204, 304):
            self._left = 0
        return False

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._left = int(value)
        elif name == b"transfer-encoding" and value.lower() == b"chunked":
            self._chunked = True
        elif name == b"connection" and value.lower() == b"close":
            self.reusable = False
        elif name == b"x-mw-queue-ms":
            self._queued = float(value) / 1000

    def _body(self) -> None:
        if self._chunked:
            self._chunks()
            return
        self._size += len(self._buffer)
        if self._left is not None:
            self._left -= len(self._buffer)
            if self._left < 0:
                raise ValueError("more body than was announced")
        self._buffer = b""
        if self._left == 0:
            self._finish(Answer(self._status, queued=self._queued, size=self._size), reusable=self.reusable)

    def _chunks(self) -> None:
        while True:
            if self._left:  # inside a chunk, with its CRLF
                taken = min(self._left, len(self._buffer))
                self._buffer, self._left = self._buffer[taken:], self._left - taken
                if self._left:
                    return
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return
            size = int(self._buffer[:end].split(b";")[0], 16)
            if size == 0:
                done = self._buffer.find(b"\r\n\r\n", end)
                if done < 0:
                    return
                self._finish(Answer(self._status, queued=self._queued, size=self._size), reusable=self.reusable)
                return
            self._buffer = self._buffer[end + 2 :]
            self._size += size
            self._left = size + 2

    def _finish(self, answer: Answer, *, reusable: bool) -> None:
        self.reusable = self.reusable and reusable
        ended, self._ended = self._ended, None
        if not self.reusable and self._transport is not None:
            self._transport.abort()
        if ended is not None:
            ended(answer)
