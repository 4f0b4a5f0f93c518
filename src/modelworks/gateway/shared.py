"""What several gateways on one port know together: how many requests each has at a replica, and waiting for a service.

A file in memory holds a row for each replica and each service, and in it a cell for each process. Only its owner writes
a cell; whoever wants to enter adds the cells up under the row's lock, and leaving needs none. A process holds a lock on
its own number as long as it lives: when the system has dropped that lock, the others clear its cells.

Locks are byte ranges of the same file, so that none outlives its process. They belong to processes, not to threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from modelworks.kernel.errors import SetupFailed

PROCESSES = 16  # twice as many as there may be: at a restart the old ones drain beside the new
ROWS = 4096
_KEY = 16
# A row: key, who is attached (a byte each), requests at the replica and in the queue (4 each), since when (8 each), and
# when the next request is due under the service's rate.
_ATTACHED = _KEY
_BUSY = _ATTACHED + PROCESSES
_WAITING = _BUSY + 4 * PROCESSES
_SINCE = _WAITING + 4 * PROCESSES
_DUE = _SINCE + 8 * PROCESSES
_ROW = _DUE + 8
_HEADER = 64  # a byte for each process that has taken its number
_SIZE = _HEADER + ROWS * _ROW
# Offsets of locks lie beyond the data.
_NUMBER_LOCKS = _SIZE
_TABLE_LOCK = _NUMBER_LOCKS + PROCESSES
_ROW_LOCKS = _TABLE_LOCK + 1


class Shared:
    """One process's view. Made once in a process; ``number`` is its own. ``close`` gives the number back."""

    def __init__(self, path: Path) -> None:
        """Raises SetupFailed when all numbers are taken."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < _SIZE:
            os.truncate(self._fd, _SIZE)
        self._memory = mmap.mmap(self._fd, _SIZE)
        view = memoryview(self._memory)
        self.bytes, self.counts, self.times = view, view.cast("I"), view.cast("d")
        self._rows: dict[bytes, Row] = {}
        self.number = self._claim(path)

    def row(self, name: str) -> Row | None:
        """The row of a replica or a service, from now on. None when there are too many."""
        key = hashlib.blake2b(name.encode(), digest_size=_KEY).digest()
        found = self._rows.get(key)
        if found is not None:
            found.users += 1
            return found
        with self._locked(_TABLE_LOCK):
            index = self._find(key)
            if index is None:
                return None
            self.bytes[_HEADER + index * _ROW + _ATTACHED + self.number] = 1
        row = self._rows[key] = Row(self, index, key)
        return row

    def drop(self, row: Row) -> None:
        """Nothing is going to be counted in it by this process any more."""
        row.users -= 1
        if not row.users:
            del self._rows[row.key]
            self._clear(row.index, self.number)

    def bury(self) -> list[int]:
        """Clear the cells of processes that are gone; answers their numbers."""
        buried = []
        for number in range(PROCESSES):
            if number == self.number or not self.bytes[number] or not self._try(_NUMBER_LOCKS + number):
                continue
            with self._locked(_TABLE_LOCK):
                self._clear_all(number)
            self._unlock(_NUMBER_LOCKS + number)
            buried.append(number)
        return buried

    def others(self) -> list[int]:
        """The numbers of the other processes."""
        return [n for n in range(PROCESSES) if self.bytes[n] and n != self.number]

    def close(self) -> None:
        with self._locked(_TABLE_LOCK):
            self._clear_all(self.number)
        for view in (self.counts, self.times, self.bytes):
            view.release()
        self._memory.close()
        os.close(self._fd)  # and with it every lock

    def lock(self, index: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, _ROW_LOCKS + index)

    def unlock(self, index: int) -> None:
        self._unlock(_ROW_LOCKS + index)

    # Inside

    def _claim(self, path: Path) -> int:
        for number in range(PROCESSES):
            if self._try(_NUMBER_LOCKS + number):
                with self._locked(_TABLE_LOCK):
                    self._clear_all(number)  # of who had it before
                self.bytes[number] = 1
                return number
        os.close(self._fd)
        raise SetupFailed(f"{PROCESSES} gateways run already, by {path}", remedy="lower MW_GATEWAYS")

    def _find(self, key: bytes) -> int | None:
        """The row of a key, or one that nobody is attached to, emptied for it."""
        free = None
        for index in range(ROWS):
            at = _HEADER + index * _ROW
            used = self._memory[at + _ATTACHED : at + _BUSY] != bytes(PROCESSES)
            if used and self._memory[at : at + _KEY] == key:
                return index
            if not used:
                free = index if free is None else free
                if self._memory[at : at + _KEY] == bytes(_KEY):
                    break  # never used, and so are all after it
        if free is not None:
            at = _HEADER + free * _ROW
            self._memory[at : at + _ROW] = key + bytes(_ROW - _KEY)
        return free

    def _clear_all(self, number: int) -> None:
        for index in range(ROWS):
            if self._memory[_HEADER + index * _ROW : _HEADER + index * _ROW + _KEY] == bytes(_KEY):
                break
            self._clear(index, number)
        self.bytes[number] = 0

    def _clear(self, index: int, number: int) -> None:
        at = _HEADER + index * _ROW
        self.counts[(at + _BUSY) // 4 + number] = 0
        self.counts[(at + _WAITING) // 4 + number] = 0
        self.times[(at + _SINCE) // 8 + number] = 0.0
        self.bytes[at + _ATTACHED + number] = 0

    @contextlib.contextmanager
    def _locked(self, offset: int) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, offset)
        try:
            yield
        finally:
            self._unlock(offset)

    def _try(self, offset: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except OSError:
            return False
        return True

    def _unlock(self, offset: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, offset)


# Seconds. Sums of intervals on the clock are not exact, and must not cost a request of those that may enter at once.
_ROUNDING = 1e-6


class Row:
    """One replica's or service's row, as one process sees it."""

    __slots__ = ("_busy", "_due", "_shared", "_since", "_waiting", "index", "key", "users")

    def __init__(self, shared: Shared, index: int, key: bytes) -> None:
        at = _HEADER + index * _ROW
        self._shared = shared
        self.index = index
        self.key = key
        self._busy = (at + _BUSY) // 4
        self._waiting = (at + _WAITING) // 4
        self._since = (at + _SINCE) // 8
        self._due = (at + _DUE) // 8
        self.users = 1  # in this process: a replica may leave the table and come back before its last request has ended

    def take(self, limit: int) -> bool:
        """One request more, unless all processes together have ``limit`` already."""
        shared = self._shared
        shared.lock(self.index)
        try:
            if self.busy >= limit:
                return False
            shared.counts[self._busy + shared.number] += 1
        finally:
            shared.unlock(self.index)
        return True

    def give(self) -> None:
        """One request less."""
        shared = self._shared
        shared.counts[self._busy + shared.number] -= 1

    def add(self) -> None:
        """One request more, where no limit is."""
        shared = self._shared
        shared.counts[self._busy + shared.number] += 1

    def pace(self, rate: float, now: float) -> float:
        """0 when a request may enter of ``rate`` a second of all processes, and as many at once after a rest; else in
        how many seconds one may."""
        shared = self._shared
        shared.lock(self.index)
        try:
            due = max(now, shared.times[self._due])
            early = due - now - (max(1.0, rate) - 1.0) / rate
            if early > _ROUNDING:
                return early
            shared.times[self._due] = due + 1.0 / rate
        finally:
            shared.unlock(self.index)
        return 0.0

    def hold(self, count: int) -> None:
        """So many requests are of this process."""
        shared = self._shared
        shared.counts[self._busy + shared.number] = count

    @property
    def elsewhere(self) -> int:
        """Requests of the other processes."""
        shared = self._shared
        return self.busy - shared.counts[self._busy + shared.number]

    @property
    def busy(self) -> int:
        """Requests of all processes."""
        return sum(self._shared.counts[self._busy : self._busy + PROCESSES])

    def join(self, size: int, mine: int) -> bool:
        """One more of this process waits, whose queue holds ``mine`` so far; unless all together hold ``size``."""
        shared = self._shared
        shared.lock(self.index)
        try:
            own = self._waiting + shared.number
            if self.waiting - shared.counts[own] + mine >= size:
                return False
            shared.counts[own] = mine + 1
        finally:
            shared.unlock(self.index)
        return True

    def show(self, waiting: int, since: float) -> None:
        """So many of this process wait, the first one since then (monotonic clock of the machine)."""
        shared = self._shared
        shared.times[self._since + shared.number] = since
        shared.counts[self._waiting + shared.number] = waiting

    @property
    def waiting(self) -> int:
        """Waiting requests of all processes."""
        return sum(self._shared.counts[self._waiting : self._waiting + PROCESSES])

    def first(self, since: float | None) -> int | None:
        """The other process whose first one has waited longest, if that is longer than since ``since`` (None: nobody
        waits here)."""
        shared = self._shared
        found = None
        for number in range(PROCESSES):
            if number != shared.number and shared.counts[self._waiting + number]:
                other = shared.times[self._since + number]
                if since is None or other < since:
                    found, since = number, other
        return found
