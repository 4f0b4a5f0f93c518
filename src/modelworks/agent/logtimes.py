"""When the bytes of a log came: ``times`` of the run's directory, lines of ``<Unix milliseconds> <size of the log>``.

A workload writes into its log itself, so that none of its lines can be lost or held up on the way; when they came is
seen twice a second.
"""

from __future__ import annotations

import time

from modelworks.runtime.rundir import RunDirectory


class LogTimes:
    """One run's."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._size = -1

    def look(self) -> None:
        """Note the time when the log is larger than before. Raises OSError of the disk."""
        size = self._directory.log_size()
        if self._size < 0:
            self._size = self._noted()
        if size > self._size:
            with self._directory.times.open("a", encoding="ascii") as file:
                file.write(f"{time.time() * 1000:.0f} {size}\n")
            self._size = size

    def _noted(self) -> int:
        """Of an earlier agent."""
        try:
            with self._directory.times.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 64))
                last = file.read().split(b"\n")[-2].split()
            return int(last[1])
        except (FileNotFoundError, IndexError, ValueError):
            return 0
