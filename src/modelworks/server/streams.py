"""Events on their way from a worker's thread to a connection, no faster than the client takes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import orjson

from modelworks.server.messages import Answer, Events
from modelworks.server.problems import answer_of, problem_of

# Events that may be on their way between thread and socket.
_WINDOW = 16


class Stream:
    """``run`` is called on the thread that makes the events; everything else on the loop."""

    def __init__(self, events: Events, loop: asyncio.AbstractEventLoop) -> None:
        self.media_type = events.media_type
        self._events = events
        self._loop = loop
        self._room = threading.Semaphore(_WINDOW)
        self._closed = False
        self._ended = False
        self._paused = False
        self._owed = 0
        self._waiting: list[bytes] = []
        self._sink: Callable[[bytes | None], None] | None = None

    def run(self, begin: Callable[[Stream | Answer], None], end: Callable[[], None]) -> None:
        """Makes all events. ``begin`` is called on the loop with the first one, or with the problem in its place."""
        soon = self._loop.call_soon_threadsafe
        begun = False
        try:
            for event in self._events.events:
                self._room.acquire()
                if self._closed:
                    break
                soon(self._deliver, event)
                if not begun:
                    begun = True
                    soon(begin, self)
            if not begun:
                begun = True
                soon(begin, self)
        except BaseException as error:  # a cancelled coroutine is no Exception
            if not self._closed and not begun:
                soon(begin, answer_of(error))
            elif not self._closed:
                soon(self._deliver, b"event: error\ndata: " + orjson.dumps(_told(error)) + b"\n\n")
        finally:
            self._end_generator()
            soon(self._end)
            soon(end)

    def attach(self, sink: Callable[[bytes | None], None]) -> None:
        """``sink`` gets every event, and None after the last one."""
        self._sink = sink
        for event in self._waiting:
            self._pass(event)
        self._waiting.clear()
        if self._ended:
            sink(None)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        for _ in range(self._owed):
            self._room.release()
        self._owed = 0

    def close(self) -> None:
        """The client has gone: the generator is closed when it next yields, a coroutine at once."""
        if not self._closed:
            self._closed = True
            self._sink = None
            self._room.release()
            self._events.cancel()

    def _deliver(self, event: bytes) -> None:
        if self._sink is None:
            self._waiting.append(event)
        else:
            self._pass(event)

    def _pass(self, event: bytes) -> None:
        if self._sink is None:
            return
        self._sink(event)
        if self._paused:
            self._owed += 1
        else:
            self._room.release()

    def _end(self) -> None:
        self._ended = True
        if self._sink is not None:
            self._sink(None)

    def _end_generator(self) -> None:
        close = getattr(self._events.events, "close", None)
        if close is not None:
            try:
                close()
            except (
                Exception
            ) as error:  # a generator that yields while it is closed: the user's mistake, told in the log
                problem_of(error)


def _told(error: BaseException) -> dict[str, object]:
    problem = problem_of(error)
    return {"status": problem.status, "code": problem.code, "detail": problem.detail}
