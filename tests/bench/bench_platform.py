"""Starting the platform, and what it takes when nobody uses it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.harness import Entry, Figure, Unmeasurable, mw, platform_home, up

UP_FIRST = Figure("platform.up_first_s", "s", 6, "lower")
UP_AGAIN = Figure("platform.up_again_s", "s", 4, "lower")
IDLE_PSS = Figure("platform.idle_pss_mib", "MiB", 360, "lower")
IDLE_CPU = Figure("platform.idle_cpu_pct", "%", 2, "lower")
FIGURES = (UP_FIRST, UP_AGAIN, IDLE_PSS, IDLE_CPU)
_ROUNDS = 3
_IDLE_SECONDS = 60
_SETTLE_SECONDS = 5


def run() -> Sequence[Entry]:
    first: list[float] = []
    again: list[float] = []
    for _ in range(_ROUNDS):
        with platform_home() as home:
            first.append(up(home))
            mw(home, "down")
            again.append(up(home))
    with platform_home() as home:
        up(home)
        time.sleep(_SETTLE_SECONDS)
        pids = _processes(home)
        before, start = _cpu(pids), time.monotonic()
        samples = []
        while time.monotonic() < start + _IDLE_SECONDS:
            time.sleep(_IDLE_SECONDS / 6)
            pids = _processes(home)
            samples.append(sum(_pss_mib(pid) for pid in pids))
        after, seconds = _cpu(pids), time.monotonic() - start
    used = sum(after[pid] - before.get(pid, 0.0) for pid in after)
    names = {"processes": len(pids)}
    return [
        UP_FIRST.medians(first),
        UP_AGAIN.medians(again),
        IDLE_PSS.medians(samples, **names),
        IDLE_CPU.entry(100 * used / seconds, seconds=round(seconds, 1), **names),
    ]


def _processes(home: Path) -> list[int]:
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
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is not ours
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    if not found:
        raise Unmeasurable("no process of the platform was found")
    return sorted(found)


def _pss_mib(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def _cpu(pids: Sequence[int]) -> dict[int, float]:
    used: dict[int, float] = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used
