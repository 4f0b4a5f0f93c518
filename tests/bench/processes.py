"""What the processes of a platform take, from ``/proc``: those of its home, with or without its workloads."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.harness import Unmeasurable

_GONE = (FileNotFoundError, ProcessLookupError)
_TICK = 1 / os.sysconf("SC_CLK_TCK")


def of_home(home: Path) -> list[int]:
    """Everything that was started for ``home``: named by its environment or command line, and the children of these."""
    mark = str(home).encode()
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if mark in (entry / "cmdline").read_bytes() or mark in (entry / "environ").read_bytes():
                found.add(pid)
        except (*_GONE, PermissionError):
            continue  # it has ended, or is not ours
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    if not found:
        raise Unmeasurable("no process of the platform was found")
    return sorted(found)


def of_platform(home: Path) -> list[int]:
    """Those of ``home`` that are not a run's own: the services, the engines, and the shims of its runs."""
    return [pid for pid in of_home(home) if not _of_run(pid)]


def _of_run(pid: int) -> bool:
    try:
        return b"\0MW_RUN=" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except (*_GONE, PermissionError):
        return False


def pss_mib(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except _GONE:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """What each has taken since it began, of those that still live."""
    used: dict[int, float] = {}
    for pid in pids:
        with suppress(*_GONE):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[pid] = (int(fields[11]) + int(fields[12])) * _TICK
    return used


def name(pid: int) -> str:
    """What a process is, in a word or two."""
    with suppress(*_GONE):
        words = [
            word for word in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0") if word
        ]
        for module in ("modelworks.main", "modelworks.supervisor"):
            if module in words:
                return words[words.index(module) + 1] if module == "modelworks.main" else "supervisor"
        if words:
            return "postgres" if words[0].startswith("postgres:") else Path(words[0].split()[0]).name
    return "?"


@contextmanager
def stopped(home: Path) -> Iterator[None]:
    """The platform takes nothing meanwhile: all its processes are stopped, its runs are not."""
    pids = of_platform(home)
    # The supervisor is stopped first and goes on last, so that it misses nobody.
    pids.sort(key=lambda pid: name(pid) != "supervisor")
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(reversed(pids), signal.SIGCONT)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
