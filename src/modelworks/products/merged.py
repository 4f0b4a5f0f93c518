"""The lines of several runs in one stream, in the order in which they came; and those of them that are looked for.

Agents note twice a second how large a log is. A line has the time of the first note that covers it; of lines with the
same time those of the lower rank come first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from modelworks.kernel.rewrites import Rewrites
from modelworks.products.context import Context
from modelworks.products.logs import read

_PIECE = 256 << 10
_LONGEST_LINE = 1 << 20
_WAIT = 0.25  # seconds between looks of a follower
_REWRITTEN = 1.0  # seconds between two lines of one progress bar


@dataclass(frozen=True)
class Gang:
    """The runs of one attempt by rank, and whether all of them have ended."""

    keys: tuple[str, ...]
    ended: bool


@dataclass(frozen=True)
class Wanted:
    """Which lines: those that hold ``text``, and came at ``since`` (Unix seconds) or later. ``marked``: with ranks."""

    text: str = ""
    ignore_case: bool = False
    since: float | None = None
    marked: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "_needle", self._folded(self.text.encode()))

    def holds(self, line: bytes) -> bool:
        needle: bytes = getattr(self, "_needle", b"")
        return needle in self._folded(line)

    def _folded(self, data: bytes) -> bytes:
        return data.decode(errors="replace").casefold().encode() if self.ignore_case else data


Line = tuple[float, bytes]


@dataclass
class _Log:
    """One run's log as lines with times. Not for several threads at once."""

    fetch: Callable[[str, str, int], bytes]  # key, part, offset
    key: str
    follow: bool
    since: float | None
    lines: deque[Line] = field(default_factory=deque)
    dry: bool = False  # the last look brought nothing
    _offset: int = 0
    _times: deque[tuple[float, int]] = field(default_factory=deque)
    _times_read: int = 0
    _rest: bytes = b""
    _last: float = 0.0

    def __post_init__(self) -> None:
        self._view = Rewrites(_REWRITTEN if self.follow else None)
        if self.since is not None:
            self._skip(self.since)

    def fill(self) -> None:
        """Read on."""
        data = self.fetch(self.key, "log", self._offset)
        self.dry = not data
        while (not self._times or self._times[-1][1] < self._offset + len(data)) and self._more_times():
            pass
        while data:
            at, size = self._covering()
            piece, data = data[:size], data[size:]
            self._offset += len(piece)
            self._take(self._view.feed(piece, time.monotonic()), at)
        if self.dry and self.follow:
            self._take(self._view.feed(b"", time.monotonic()), time.time())

    def end(self) -> None:
        """Nothing will come: what nothing ended is a line too."""
        self._take(self._view.end(), self._last)
        if self._rest:
            self.lines.append((self._last, self._rest))
            self._rest = b""

    def _take(self, shown: bytes, at: float) -> None:
        *lines, self._rest = (self._rest + shown).split(b"\n")
        self.lines.extend((at, line) for line in lines)
        self._last = at if shown else self._last
        if len(self._rest) > _LONGEST_LINE:
            self.lines.append((at, self._rest))
            self._rest = b""

    def _covering(self) -> tuple[float, int]:
        """When the bytes at the offset came, and how many came then."""
        while self._times and self._times[0][1] <= self._offset:
            self._times.popleft()
        if self._times:
            at, size = self._times[0]
            return at, size - self._offset
        return max(time.time() if self.follow else self._last, self._last), _PIECE

    def _more_times(self) -> bool:
        """One piece of the times, of which a month has millions; False when there are no more."""
        data = self.fetch(self.key, "times", self._times_read)
        size = data.rfind(b"\n") + 1
        self._times_read += size
        for line in data[:size].splitlines():
            milliseconds, _, end = line.partition(b" ")
            self._times.append((int(milliseconds) / 1000, int(end)))
        return size > 0

    def _skip(self, since: float) -> None:
        while not self._times and self._more_times():
            while self._times and self._times[0][0] < since:
                self._offset = self._times.popleft()[1]


async def merged(
    context: Context,
    workspace: str,
    gangs: Callable[[], tuple[Sequence[Gang], bool] | None],
    wanted: Wanted,
    *,
    offset: int = 0,
    follow: bool,
) -> AsyncIterator[bytes]:
    """The lines of all attempts, one attempt after the other, but for the first ``offset`` bytes of them.

    ``gangs`` says which attempts there are, and whether that is all; None: the resource is gone.
    """
    left = offset
    async for text in _lines(context, workspace, gangs, wanted, follow=follow):
        shown, left = text[left:], max(left - len(text), 0)
        yield shown  # also when it is empty: there is an answer


async def _lines(
    context: Context,
    workspace: str,
    gangs: Callable[[], tuple[Sequence[Gang], bool] | None],
    wanted: Wanted,
    *,
    follow: bool,
) -> AsyncIterator[bytes]:

    def fetch(key: str, part: str, offset: int) -> bytes:
        return read(context, workspace, key, offset, _PIECE, part)

    index = 0
    logs: list[_Log] | None = None
    while (known := await run_in_threadpool(gangs)) is not None:
        attempts, complete = known
        if index >= len(attempts):
            if complete or not follow:
                return
            yield b""
            await asyncio.sleep(_WAIT)
            continue
        gang = attempts[index]
        if logs is None:
            logs = [_Log(fetch, key, follow, wanted.since) for key in gang.keys]
        while not await run_in_threadpool(_fill, logs):
            yield _text(logs, wanted)
        last = gang.ended or not follow
        if last:
            for log in logs:
                log.end()
        yield _text(logs, wanted)
        if last:
            logs, index = None, index + 1
        else:
            await asyncio.sleep(_WAIT)


def _fill(logs: Sequence[_Log]) -> bool:
    """Read on where there is no line left; True when nothing more is there now."""
    for log in logs:
        while not log.lines:
            log.fill()
            if log.dry:
                break
    return all(log.dry for log in logs)


def _text(logs: Sequence[_Log], wanted: Wanted) -> bytes:
    """What can be told now: up to where a log that has more to come would have to be read on."""
    found = bytearray()
    while True:
        ready = [(log.lines[0][0], rank) for rank, log in enumerate(logs) if log.lines]
        if not ready:
            return bytes(found)
        _, rank = min(ready)
        at, line = logs[rank].lines.popleft()
        if wanted.holds(line) and (wanted.since is None or at >= wanted.since):
            found += (b"[%d] " % rank if wanted.marked else b"") + line + b"\n"
        if not logs[rank].lines and not logs[rank].dry:
            return bytes(found)
