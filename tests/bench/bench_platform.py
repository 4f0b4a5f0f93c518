"""Starting the platform, and what it takes when nobody uses it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tests.bench import processes
from tests.bench.harness import Entry, Figure, mw, platform_home, up

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
        pids = processes.of_home(home)
        before, start = processes.cpu_seconds(pids), time.monotonic()
        samples = []
        while time.monotonic() < start + _IDLE_SECONDS:
            time.sleep(_IDLE_SECONDS / 6)
            pids = processes.of_home(home)
            samples.append(sum(processes.pss_mib(pid) for pid in pids))
        after, seconds = processes.cpu_seconds(pids), time.monotonic() - start
    used = sum(after[pid] - before.get(pid, 0.0) for pid in after)
    names = {"processes": len(pids)}
    return [
        UP_FIRST.medians(first),
        UP_AGAIN.medians(again),
        IDLE_PSS.medians(samples, **names),
        IDLE_CPU.entry(100 * used / seconds, seconds=round(seconds, 1), **names),
    ]
