"""Sending by the clock, over a pool of connections that grows as it must."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from modelworks.kernel.errors import Invalid
from modelworks.sdk.load.connection import TIMED_OUT, Answer, Connection
from modelworks.sdk.load.outcome import Outcome
from modelworks.sdk.load.schedule import Arrivals, Recorded, Step, arrivals

MOST_CONNECTIONS = 2000
_CONNECT = 5.0  # seconds
_COARSE = 0.5  # the longest the clock is slept on at once


@dataclass(frozen=True)
class Target:
    """A service at the gateway: ``url`` its endpoint, ``token`` what opens it, and the request that is sent."""

    url: str
    token: str
    body: bytes | None = None
    path: str = ""
    method: str = "POST"
    content_type: str = "application/json"

    def request(self, one: Recorded | None = None) -> bytes:
        """The bytes of a request, of a recording's or always the same."""
        place = urlsplit(self.url)
        method, path, body, media = self.method, self.path, self.body, self.content_type
        if one is not None:
            method, path, body, media = one.method, one.path, one.body, one.content_type or media
        below = quote(path.lstrip("/"), safe="/?&=%:+,;@~")
        full = place.path.rstrip("/") + (below if below.startswith("?") else f"/{below}" if below else "")
        lines = [f"{method} {full} HTTP/1.1", f"Host: {place.netloc}", f"Authorization: Bearer {self.token}"]
        if body is not None:
            lines += [f"Content-Type: {media}", f"Content-Length: {len(body)}"]
        elif method in ("POST", "PUT", "PATCH"):
            lines += ["Content-Length: 0"]
        if any(bad in line for line in lines for bad in "\r\n"):
            raise Invalid("a path, method or media type holds a line break")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


@dataclass
class _Waiting:
    """A request that is due: when it was meant to be sent, and where it counts."""

    at: float
    request: bytes
    outcome: Outcome
    done: asyncio.Future[bool] | None = None  # whether it was answered well


@dataclass
class Generator:
    """``timeout`` is how long an answer may take. ``outcomes`` grows by a step at a time; read it at any time."""

    target: Target
    timeout: float = 30.0
    connections: int = MOST_CONNECTIONS
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._idle: list[Connection] = []
        self._open = 0
        self._backlog: deque[_Waiting] = deque()
        self._unanswered = 0
        self._began = 0.0
        self._settled = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._live: set[Connection] = set()

    async def steps(
        self, planned: Iterable[Step], kind: Arrivals, enough: Callable[[Sequence[Outcome]], bool] = lambda _: False
    ) -> None:
        """Step after step until there are no more or ``enough`` says so; each is waited out before the next."""
        request = self.target.request()
        try:
            for number, step in enumerate(planned):
                outcome = Outcome(step.rate, step.duration)
                self.outcomes.append(outcome)
                await self._send(((at, request) for at in arrivals(step, kind, number)), outcome)
                await self._answers()
                if enough(self.outcomes):
                    return
        finally:
            self._close()

    async def busy(self, callers: int, duration: float) -> None:
        """``callers`` that each send again as soon as they are answered: what a replica can do, not what users see."""
        self._began = began = time.perf_counter()
        outcome = Outcome(0.0, duration)
        self.outcomes.append(outcome)
        request, end = self.target.request(), began + duration

        async def caller() -> None:
            while (now := time.perf_counter()) < end:
                done = asyncio.get_running_loop().create_future()
                outcome.sent += 1
                self._unanswered += 1
                self._give(_Waiting(now, request, outcome, done))
                if not await done:
                    await asyncio.sleep(0.05)  # who is refused at once does not hammer

        try:
            await asyncio.gather(*(caller() for _ in range(callers)))
        finally:
            self._close()
            self._idle.clear()
            self._live.clear()
            self._open = 0

    async def replay(self, recorded: Sequence[Recorded]) -> None:
        """A recording, at its own times."""
        length = max(recorded[-1].at, 1e-3)
        outcome = Outcome(len(recorded) / length, length)
        self.outcomes.append(outcome)
        try:
            await self._send(((one.at, self.target.request(one)) for one in recorded), outcome)
            await self._answers()
        finally:
            self._close()

    def _close(self) -> None:
        """What is unanswered by now, after Ctrl-C, counts as not sent: nobody knows what would have become of it."""
        for task in self._tasks:
            task.cancel()
        for connection in self._live:
            connection.close()
        if self.outcomes:
            last = self.outcomes[-1]
            last.sent = last.ended
            last.duration = min(last.duration, max(time.perf_counter() - self._began, 1e-3))

    async def _send(self, planned: Iterable[tuple[float, bytes]], outcome: Outcome) -> None:
        began = self._began = time.perf_counter()
        for offset, request in planned:
            at = began + offset
            now = time.perf_counter()
            while now < at:
                # Timers are late by a fraction of a millisecond: what is due by then is sent together, and each
                # request's latency still counts from its own time.
                await asyncio.sleep(min(at - now, _COARSE))
                now = time.perf_counter()
            outcome.sent += 1
            outcome.late.append(now - at)
            self._unanswered += 1
            self._settled.clear()
            self._give(_Waiting(at, request, outcome))
            if outcome.sent % 64 == 0:
                await asyncio.sleep(0)  # answers are read even when sending is behind
        left = began + outcome.duration - time.perf_counter()
        if left > 0:
            await asyncio.sleep(left)

    async def _answers(self) -> None:
        """Until all are there; what takes longer than the timeout is counted as such."""
        if self._unanswered:
            await self._settled.wait()

    def _give(self, waiting: _Waiting) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                self._on(connection, waiting)
                return
            self._live.discard(connection)  # the gateway closed it meanwhile
            self._open -= 1
        self._backlog.append(waiting)
        if self._open < self.connections:
            self._open += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._expire()

    async def _connect(self) -> None:
        place = urlsplit(self.target.url)
        context = ssl.create_default_context() if place.scheme == "https" else None
        port = place.port or (443 if context else 80)
        try:
            async with asyncio.timeout(_CONNECT):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection, place.hostname or "", port, ssl=context
                )
        except (OSError, TimeoutError) as error:
            self._open -= 1
            if self._backlog:
                self._end(self._backlog.popleft(), Answer(0, f"no connection: {_reason(error)}"))
            return
        self._live.add(connection)
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        """The connection is free: for who waits longest, else for the pool."""
        self._expire()
        if not connection.reusable:
            self._live.discard(connection)
            self._open -= 1
            if self._backlog:
                self._give(self._backlog.popleft())
        elif self._backlog:
            self._on(connection, self._backlog.popleft())
        else:
            self._idle.append(connection)

    def _on(self, connection: Connection, waiting: _Waiting) -> None:
        loop = asyncio.get_running_loop()
        left = waiting.at + self.timeout - time.perf_counter()
        timer: asyncio.TimerHandle

        def ended(answer: Answer) -> None:
            timer.cancel()
            self._end(waiting, answer)
            self._next(connection)

        timer = loop.call_later(max(0.0, left), connection.timed_out)
        connection.send(waiting.request, ended)

    def _expire(self) -> None:
        """What has waited for a connection for longer than an answer may take."""
        now = time.perf_counter()
        while self._backlog and now - self._backlog[0].at > self.timeout:
            self._end(self._backlog.popleft(), Answer(0, TIMED_OUT))

    def _end(self, waiting: _Waiting, answer: Answer) -> None:
        now = time.perf_counter()
        waiting.outcome.count(answer, now - waiting.at)
        waiting.outcome.elapsed = now - self._began
        if waiting.done is not None and not waiting.done.done():
            waiting.done.set_result(200 <= answer.status < 400)
        self._unanswered -= 1
        if not self._unanswered:
            self._settled.set()


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:100]
