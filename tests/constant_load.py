"""Callers on a clock: a request is sent when it is due, whatever became of those before it, and its answer checked."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

_IDLE = 16  # as many connections are kept while nothing is asked on them; each is used again within a tenth of a second


@dataclass
class Answers:
    """What became of the requests. ``failed``: seconds since the start, and what was wrong."""

    sent: int = 0
    right: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    replicas: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    slowest: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.sent} sent over {self.connections} connections, {self.right} answered rightly, the slowest after "
            f"{self.slowest:.2f} s, by {dict(self.versions)}; {len(self.failed)} failed: {self.failed[:5]}"
        )


class Caller:
    """``rate`` requests a second over kept connections, in a thread of its own, until it is stopped.

    Right is an answer of status 200 that holds the request's own ``number``, and a ``version``, which is counted.
    A request is sent once: whatever becomes of it counts.
    """

    def __init__(self, url: str, token: str, rate: float) -> None:
        parts = urlsplit(url)
        self.seen = Answers()
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self._rate = rate
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Sends nothing more, and waits for the answers that are still to come."""
        self._stop.set()
        self._thread.join()

    def more(self, count: int, timeout: float = 60.0) -> None:
        """Until so many more were answered rightly."""
        wanted, deadline = self.seen.right + count, time.monotonic() + timeout
        while self.seen.right < wanted:
            assert time.monotonic() < deadline, f"no more answers: {self.seen}"
            time.sleep(0.01)

    def last(self, seconds: float) -> None:
        """Until the requests of so many seconds were answered rightly."""
        self.more(int(seconds * self._rate), 60.0 + seconds)

    def _run(self) -> None:
        # The loop of the standard library looks at what has come before it does what is due: a connection that was
        # closed meanwhile is not asked.
        with asyncio.Runner() as runner:
            runner.run(self._call())

    async def _call(self) -> None:
        self._began = time.monotonic()
        tasks = set[asyncio.Task[None]]()
        for number in itertools.count():
            due = self._began + number / self._rate
            if self._stop.is_set():
                break
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            self.seen.sent += 1
            if self._idle:
                self._idle.popleft().ask(number, due)
                continue
            task = asyncio.create_task(self._connect(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        patience = time.monotonic() + 60.0
        while (tasks or any(one.asked for one in self._open)) and time.monotonic() < patience:
            await asyncio.sleep(0.01)
        for one in list(self._open):
            one.close("no answer in a minute after the last request")
        await asyncio.sleep(0)

    async def _connect(self, number: int, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, one = await loop.create_connection(lambda: _Connection(self), self._host, self._port)
        except OSError as error:
            self._failed(due, f"cannot connect: {error}")
            return
        self.seen.connections += 1
        one.ask(number, due)

    # Told by connections

    def message(self, number: int) -> bytes:
        body = f'{{"number": {number}}}'
        return f"{self._head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def opened(self, one: _Connection) -> None:
        self._open.add(one)

    def closed(self, one: _Connection) -> None:
        self._open.discard(one)
        if one in self._idle:
            self._idle.remove(one)

    def answered(self, one: _Connection, number: int, due: float, status: int, body: bytes, keep: bool) -> None:
        seen = self.seen
        seen.slowest = max(seen.slowest, time.monotonic() - due)
        try:
            document: Any = json.loads(body)
        except ValueError:
            document = None
        if status == 200 and isinstance(document, dict) and document.get("number") == number:
            seen.versions[str(document.get("version"))] += 1
            seen.replicas[one.replica] += 1
            seen.right += 1
        else:
            self._failed(due, f"{status} from {one.replica or 'the gateway'}: {body[:200]!r}")
        if not keep:
            return
        if len(self._idle) < _IDLE:
            self._idle.append(one)
        else:
            one.close("not needed")

    def _failed(self, due: float, what: str) -> None:
        self.seen.failed.append((round(due - self._began, 3), what))

    def broken(self, number: int, due: float, what: str) -> None:
        self._failed(due, what)


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.asked: tuple[int, float] | None = None
        self.replica = ""
        self._body = b""
        self._uses = 0
        self._why = "closed by the gateway"

    def ask(self, number: int, due: float) -> None:
        self.asked, self.replica, self._body = (number, due), "", b""
        self._uses += 1
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._caller.message(number))

    def close(self, why: str) -> None:
        self._why = why
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._caller.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close(f"not HTTP: {error}: {data[:100]!r}")

    def connection_lost(self, error: Exception | None) -> None:
        self._caller.closed(self)
        if self.asked is not None:
            (number, due), self.asked = self.asked, None
            self._caller.broken(number, due, f"{error or self._why} after {self._uses} requests")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-mw-replica":
            self.replica = value.decode()

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self.asked is None:
            return
        (number, due), self.asked = self.asked, None
        keep = self._parser.should_keep_alive()
        self._caller.answered(self, number, due, self._parser.get_status_code(), self._body, keep)
        if not keep:
            self._transport.close()


@contextmanager
def constant(url: str, token: str, rate: float = 200.0) -> Iterator[Caller]:
    """``rate`` requests a second to ``url`` for as long as the block lasts."""
    caller = Caller(url, token, rate)
    caller.start()
    try:
        yield caller
    finally:
        caller.stop()
