"""From a prediction that arrived to its answer: a bounded queue, batches, and who computes them.

Calls of the model run on threads; those of models that take less than a hop between threads would cost run on the
event loop, between two turns of it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from modelworks.server.batching import Batcher, Item, rows_of
from modelworks.server.estimates import QUICK, Estimates
from modelworks.server.messages import Answer, Events
from modelworks.server.problems import Problem, answer_of
from modelworks.server.processors.base import Processor, Unbatchable, Work
from modelworks.server.spread import Spread, shares
from modelworks.server.statistics import Statistics
from modelworks.server.streams import Stream
from modelworks.server.workers import Workers

Done = Callable[["Answer | Stream"], None]
# What the loop computes before it looks at its sockets again.
_TURN = 0.002
_NO_MEMORY = ("out of memory", "bad_alloc", "Failed to allocate", "RESOURCE_EXHAUSTED", "DefaultCPUAllocator")


class Call:
    """One prediction on its way. Its items are the pieces of its rows; most have one."""

    __slots__ = ("done", "encode", "items", "missing", "open", "results", "stream")

    def __init__(self, encode: Callable[[Any], Answer], done: Done) -> None:
        self.encode = encode
        self.done = done
        self.items: list[Item] = []
        self.results: list[Any] = []
        self.missing = 0
        self.open = True  # neither answered nor given up
        self.stream: Stream | None = None


class Dispatcher:
    """``queue_size`` predictions may wait beside those that are computed; what comes beyond is refused at once.

    Only the loop touches calls. The batcher is shared with the threads, under the condition's lock.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        processor: Processor,
        batcher: Batcher,
        statistics: Statistics,
        *,
        threads: int,
        queue_size: int,
        lanes: int = 1,
    ) -> None:
        self._loop = loop
        self._processor = processor
        self._batcher = batcher
        self._statistics = statistics
        self._threads = threads
        self._limit = threads * (batcher.limit or 1) + queue_size
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._handed: deque[list[Item]] = deque()
        self._computing = 0  # batches on threads
        self._whole = False  # one of them has all CPUs, though they could be divided
        self._spread = Spread(lanes)
        self._closed = False
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._estimates = Estimates()
        self.accepted = 0  # waiting or running
        self._each = 0.05  # a moving mean of how long a thread has for one
        self._workers = Workers(self._work, max(threads, lanes))

    @property
    def max_rows(self) -> int | None:
        """Rows that a batch holds at most; None without batches."""
        return self._batcher.limit

    @property
    def queued(self) -> int:
        return min(self._batcher.depth, self.accepted)

    @property
    def in_flight(self) -> int:
        return self.accepted - self.queued

    def oldest(self) -> float:
        """How long the first in the queue has waited (s)."""
        with self._lock:
            at = self._batcher.oldest()
        return max(time.monotonic() - at, 0.0) if at is not None else 0.0

    def check_room(self) -> None:
        """Raises Problem 429 when the queue is full."""
        if self.accepted >= self._limit:
            raise Problem(
                429,
                "limit-exceeded",
                f"{self.queued} requests wait already in this replica",
                retry_after=self.wait(),
            )

    def wait(self) -> float:
        """When a request that is refused now might be served (s)."""
        return round(max(self._each * self.accepted / self._threads, 0.05), 3)

    def submit(self, work: Work, deadline: float, done: Done) -> Call:
        """``done`` is called on the loop, once, unless the call is cancelled before. ``deadline`` is monotonic."""
        call = Call(work.encode, done)
        self.accepted += 1
        now = time.monotonic()
        limit = self._batcher.limit
        if limit is not None and work.rows > limit:
            pieces = self._processor.split(work, limit)
            call.items = [Item(data, rows, work.key, now, deadline, call) for data, rows in pieces]
        else:
            call.items = [Item(work.data, work.rows, work.key, now, deadline, call)]
        call.missing = len(call.items)
        call.results = [None] * call.missing
        with self._lock:
            for item in call.items:
                self._batcher.put(item)
            if not (self._processor.inline and self._computing == 0 and self._estimates.quick(work.key)):
                self._condition.notify(len(call.items))
                self._workers.grow(self._computing, self._batcher.depth)
                return call
        self._flush_soon()
        return call

    def cancel(self, call: Call) -> None:
        """Nobody waits for the answer any more: what has not begun will not."""
        if call.stream is not None:
            call.stream.close()
        begun = any(item.taken for item in call.items)
        if self._drop(call) and not begun:
            self._statistics.skipped["client-gone"] += 1

    def learn(self, work: Work, seconds: float, beside: bool) -> None:
        """How long a call with these rows took, before the first request; ``beside`` with one CPU."""
        self._learn(work.key, work.rows, seconds, beside)

    def close(self, patience: float) -> bool:
        """Ends the threads; False when one still computes, for a client that has gone, after ``patience`` seconds."""
        with self._lock:
            self._closed = True
            self._condition.notify_all()
        return self._workers.join(patience)

    # On the loop

    def _flush_soon(self) -> None:
        """Compute after all sockets that are ready now were read: what arrived together is computed together."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush_later(self, seconds: float) -> None:
        """Look again then; what arrives meanwhile may fill the batch before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        end = time.monotonic() + _TURN
        while True:
            now = time.monotonic()
            with self._lock:
                due = self._batcher.due()
                if due is None or self._handed or self._computing:
                    self._condition.notify()
                    return
                if due > now:
                    self._flush_later(due - now)
                    return
                if now >= end:
                    # After the sockets, not before: call_soon would come first.
                    self._flush_later(0)
                    return
                batch, late = self._batcher.take(now)
                estimate = self._estimates.get(batch[0].key, rows_of(batch)) if batch else 0.0
                if batch and (estimate is None or estimate > QUICK):
                    self._handed.append(batch)
                    self._condition.notify()
                    batch = []
            self._late(late)
            if batch:
                results, seconds = self._compute(batch)
                self._finish(batch, results, seconds)

    def _finish(self, batch: Sequence[Item], results: Sequence[Any], seconds: float) -> None:
        self._each += 0.1 * (seconds / len(batch) - self._each)
        for item, result in zip(batch, results, strict=True):
            call: Call = item.owner
            if not call.open:
                continue
            if isinstance(result, BaseException):
                self._drop(call)
                call.done(answer_of(result))
                continue
            items = call.items
            if len(items) > 1:
                # Pieces were put one after the other.
                call.results[item.order - items[0].order] = result
                call.missing -= 1
                if call.missing:
                    continue
                result = self._processor.join(call.results)
            self._end(call)
            try:
                answer = call.encode(result)
            except Exception as error:  # an output that cannot be written, or a user's post-processing
                answer = answer_of(error)
            call.done(answer)

    def _late(self, items: Sequence[Item]) -> None:
        for item in items:
            call: Call = item.owner
            if self._drop(call):
                self._statistics.skipped["deadline"] += 1
                call.done(answer_of(self._too_late()))

    def _too_late(self) -> Problem:
        words = "the request's deadline passed while it waited in this replica"
        return Problem(429, "limit-exceeded", words, retry_after=self.wait())

    def _end(self, call: Call) -> None:
        call.open = False
        self.accepted -= 1

    def _drop(self, call: Call) -> bool:
        """Ends a call and takes out what waits of it; whether it was still open."""
        if not call.open:
            return False
        self._end(call)
        with self._lock:
            for item in call.items:
                self._batcher.discard(item)
        return True

    def _streams(self, call: Call, begun: Stream | Answer) -> None:
        """The first event is there, or the reason why there is none."""
        if not call.open:
            if isinstance(begun, Stream):
                begun.close()
            return
        if isinstance(begun, Answer):
            self._end(call)
        call.done(begun)

    def _streamed(self, call: Call) -> None:
        if call.open:
            self._end(call)

    # On a thread

    def _work(self) -> None:
        lanes = self._spread.lanes
        while True:
            with self._lock:
                batch, late, beside = self._next()
                if batch is None:
                    return
                if batch:
                    self._computing += 1
                    self._whole = lanes > 1 and not beside
                if beside:
                    self._condition.notify()  # the next lane's share waits already
            if late:
                self._loop.call_soon_threadsafe(self._late, late)
            if batch:
                self._carry_out(batch, beside)
                with self._lock:
                    self._computing -= 1
                    self._whole = False

    def _next(self) -> tuple[list[Item] | None, list[Item], bool]:
        """Waits for a batch, under the lock, and whether it is to run beside others; None when the server ends."""
        while not self._closed:
            now, due = time.monotonic(), self._batcher.due()
            if self._whole:
                self._condition.wait()
            elif self._handed:
                return self._handed.popleft(), [], self._spread.lanes > 1 and self._computing > 0
            elif due is None:
                self._condition.wait()
            elif due > now:
                self._condition.wait(due - now)
            else:
                beside = self._beside(now)
                return *self._batcher.take(now, self._spread.lanes if beside else 1), beside
        return None, [], False

    def _beside(self, now: float) -> bool:
        """Whether what is due is divided: as long as others compute beside, and when that is soonest done."""
        lanes = self._spread.lanes
        head = self._batcher.head(now) if lanes > 1 else None
        if head is None:
            return False
        if self._computing:
            return True
        item, rows, items = head
        if self._batcher.limit is None:
            return self._spread.pays(item.key, rows, rows, min(items, lanes))
        calls, each = shares(rows, items, lanes)
        return self._spread.pays(item.key, rows, each, calls)

    def _carry_out(self, batch: list[Item], beside: bool) -> None:
        results, seconds = self._compute(batch, beside)
        first = results[0]
        if isinstance(first, Events):
            call: Call = batch[0].owner
            call.stream = Stream(first, self._loop)
            call.stream.run(lambda begun: self._streams(call, begun), lambda: self._streamed(call))
            return
        self._loop.call_soon_threadsafe(self._finish, batch, results, seconds / (self._spread.lanes if beside else 1))

    # Wherever

    def _compute(self, batch: list[Item], beside: bool = False) -> tuple[list[Any], float]:
        """A result or an exception for each item; one that fails does not take the others with it."""
        rows = rows_of(batch)
        began = time.perf_counter()
        try:
            results = list(self._processor.execute([item.work for item in batch], beside=beside))
        except Exception as error:  # whatever a model raises is an answer to its caller
            return self._alone(batch, error, beside), time.perf_counter() - began
        seconds = time.perf_counter() - began
        self._statistics.computed(rows, seconds, beside)
        self._learn(batch[0].key, rows, seconds, beside)
        if self._batcher.delay:
            self._batcher.expected += 0.2 * (seconds - self._batcher.expected)
        return results, seconds

    def _learn(self, key: Hashable, rows: int, seconds: float, beside: bool) -> None:
        if self._processor.inline and not beside:
            self._estimates.add(key, rows, seconds)
        if self._spread.lanes > 1:
            self._spread.add(key, rows, seconds, beside=beside)

    def _alone(self, batch: list[Item], error: Exception, beside: bool) -> list[Any]:
        if len(batch) == 1:
            return [error]
        if isinstance(error, Unbatchable):
            self._no_batches(error)
        elif isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY):
            self._shrink(rows_of(batch))
        results: list[Any] = []
        for item in batch:
            if not item.owner.open:
                results.append(error)  # heard by nobody
                continue
            if item.deadline <= time.monotonic():
                self._statistics.skipped["deadline"] += 1
                results.append(self._too_late())
                continue
            self._statistics.retried += 1
            results += self._compute([item], beside)[0]
        return results

    def _shrink(self, rows: int) -> None:
        """Batches of so many rows have no room: half of them from now on."""
        with self._lock:
            if self._batcher.limit is not None and rows > 1:
                self._batcher.limit = min(self._batcher.limit, max(rows // 2, 1))
                print(  # noqa: T201
                    f"no memory for a batch of {rows} rows: at most {self._batcher.limit} from now on",
                    file=sys.stderr,
                    flush=True,
                )

    def _no_batches(self, error: Unbatchable) -> None:
        with self._lock:
            if self._batcher.limit is None:
                return
            self._batcher.limit = None
        print(f"no batches from now on: {error}", file=sys.stderr, flush=True)  # noqa: T201
