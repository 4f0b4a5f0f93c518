"""One look at ``/proc``: who descends from whom, and what a tree of processes uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modelworks.runtime import kernelfiles

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """``cpu_seconds`` holds also what its ended and collected children used; ``rss`` is in bytes."""

    pid: int
    parent: int
    cpu_seconds: float
    rss: int


class Processes:
    """All processes at one moment."""

    def __init__(self, found: Iterable[Process]) -> None:
        self.by_pid = {process.pid: process for process in found}
        self._children: dict[int, list[int]] = {}
        for process in self.by_pid.values():
            self._children.setdefault(process.parent, []).append(process.pid)

    @classmethod
    def snapshot(cls) -> Processes:
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                # It may end while we look.
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found.append(_read(int(name)))
        return cls(found)

    def tree(self, root: int) -> list[Process]:
        """``root`` and all below it; empty when it is gone."""
        if root not in self.by_pid:
            return []
        found, level = [self.by_pid[root]], [root]
        while level:
            level = [child for pid in level for child in self._children.get(pid, ())]
            found += [self.by_pid[pid] for pid in level]
        return found


def proportional_memory(pids: Iterable[int]) -> int:
    """PSS in bytes: shared pages count once. Processes that cannot be read count with nothing."""
    total = 0
    for pid in pids:
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError),
            open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file,
        ):
            total += next((int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:")), 0)
    return total


def io_bytes(pids: Iterable[int]) -> tuple[int, int]:
    """Bytes read from and written to devices by the processes and their collected children."""
    read = written = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            fields = dict(line.split(b":") for line in kernelfiles.read(f"/proc/{pid}/io").splitlines())
            read += int(fields[b"read_bytes"])
            written += int(fields[b"write_bytes"])
    return read, written


def ran_or_waited(pids: Iterable[int]) -> dict[int, float]:
    """Of each process's main thread the seconds that it ran on a CPU, or could have and waited for one."""
    found = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            ran, waited, *_ = kernelfiles.read(f"/proc/{pid}/schedstat").split()
            found[pid] = (int(ran) + int(waited)) / 1e9
    return found


def with_variable(name: str, value: str) -> list[int]:
    """Processes that were started with this variable: how a tree is found whose root is gone."""
    wanted, found = f"{name}={value}".encode(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                content = Path(f"/proc/{entry}/environ").read_bytes()
                if wanted in content.split(b"\0"):
                    found.append(int(entry))
    return found


def _read(pid: int) -> Process:
    fields = kernelfiles.read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    ticks = sum(int(value) for value in fields[11:15])
    return Process(pid, int(fields[1]), ticks / _TICKS, int(fields[21]) * _PAGE)
