"""Requests on a clock: each is sent when it is due, whatever became of those before it, and timed from then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop


@dataclass(frozen=True)
class Call:
    """One answer: ``due`` and ``took`` in seconds, since the beginning and since it was due; status 0: none came."""

    due: float
    took: float
    status: int


@dataclass(frozen=True)
class Target:
    """What is posted where."""

    url: str
    body: bytes
    token: str = ""
    headers: Sequence[tuple[str, str]] = field(default_factory=tuple)

    def bytes(self) -> bytes:
        parts = urlsplit(self.url)
        lines = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
        lines += [f"Authorization: Bearer {self.token}"] if self.token else []
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode() + self.body


def send(target: Target, rate: float, seconds: float, *, patience: float = 60.0) -> list[Call]:
    """``rate`` requests a second for ``seconds``; then waits at most ``patience`` for what is still to come."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_send(target, rate, seconds, patience))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


async def _send(target: Target, rate: float, seconds: float, patience: float) -> list[Call]:
    loop = asyncio.get_running_loop()
    parts = urlsplit(target.url)
    message, idle, open_, done = target.bytes(), list[_Connection](), set[_Connection](), list[Call]()
    began = time.perf_counter() + 0.05

    def finish(connection: _Connection, status: int, keep: bool) -> None:
        done.append(Call(connection.due - began, time.perf_counter() - connection.due, status))
        if keep:
            idle.append(connection)
        else:
            open_.discard(connection)

    async def fresh(due: float) -> None:
        connection = _Connection(finish, due)
        open_.add(connection)
        try:
            await loop.create_connection(lambda: connection, parts.hostname or "127.0.0.1", parts.port or 80)
        except OSError:
            finish(connection, 0, False)
        else:
            connection.ask(message, due)

    tasks = set[asyncio.Task[None]]()
    count = int(rate * seconds)
    for number in range(count):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if idle:
            idle.pop().ask(message, due)
        else:
            task = loop.create_task(fresh(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    end = time.perf_counter() + patience
    while len(done) < count and time.perf_counter() < end:
        await asyncio.sleep(0.01)
    for connection in open_:
        connection.close()
    await asyncio.sleep(0.05)
    return done


class _Connection(asyncio.Protocol):
    """One request after the other; tells ``finish`` of each answer, or that none will come (status 0)."""

    def __init__(self, finish: Callable[[_Connection, int, bool], None], due: float) -> None:
        self._finish = finish
        self._transport: asyncio.Transport | None = None
        self._waiting = False
        self.due = due

    def ask(self, message: bytes, due: float) -> None:
        self.due = due
        self._waiting = True
        self._parser = httptools.HttpResponseParser(self)
        if self._transport is None or self._transport.is_closing():
            self._end(0, False)
        else:
            self._transport.write(message)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(0, False)

    def on_message_complete(self) -> None:
        self._end(self._parser.get_status_code(), self._parser.should_keep_alive())

    def _end(self, status: int, keep: bool) -> None:
        if self._waiting:
            self._waiting = False
            self._finish(self, status, keep)
