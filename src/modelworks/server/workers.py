"""Threads that carry predictions out, behind a bounded queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from modelworks.server.messages import Answer
from modelworks.server.problems import Problem

Done = Callable[[Answer | BaseException], None]


class Task:
    """One prediction on its way. ``cancelled``: its caller has gone, and nobody needs the answer."""

    __slots__ = ("cancelled", "done", "work")

    def __init__(self, work: Callable[[], Answer], done: Done) -> None:
        self.work = work
        self.done = done
        self.cancelled = False


class Workers:
    """``threads`` predictions at once and ``queue_size`` that wait; what comes beyond is refused at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int, queue_size: int) -> None:
        self._loop = loop
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._threads = threads
        self._limit = threads + queue_size
        self.accepted = 0  # waiting or running; touched by the loop only
        self._seconds = 0.05  # a moving mean of how long one takes

    @property
    def in_flight(self) -> int:
        return min(self.accepted, self._threads)

    @property
    def queued(self) -> int:
        return max(self.accepted - self._threads, 0)

    def submit(self, work: Callable[[], Answer], done: Done) -> Task:
        """Run ``work`` on a thread and ``done`` on the loop. Raises Problem 429 when the queue is full."""
        if self.accepted >= self._limit:
            wait = max(self._seconds * self.accepted / self._threads, 0.05)
            raise Problem(
                429,
                "limit-exceeded",
                f"{self.queued} requests wait already in this replica",
                retry_after=round(wait, 3),
            )
        task = Task(work, done)
        self.accepted += 1
        self._executor.submit(self._carry_out, task)
        return task

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _carry_out(self, task: Task) -> None:
        result: Answer | BaseException | None = None
        began = time.monotonic()
        if not task.cancelled:
            try:
                result = task.work()
            except Exception as error:  # whatever a user's model raises is an answer to its caller
                result = error
        took = time.monotonic() - began
        self._loop.call_soon_threadsafe(self._finish, task, result, took)

    def _finish(self, task: Task, result: Answer | BaseException | None, took: float) -> None:
        self.accepted -= 1
        if result is not None:
            self._seconds += 0.1 * (took - self._seconds)
            task.done(result)
