"""Samples of what runs use, one each 2 s, kept as JSON lines beside the log; and the watch on their memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from modelworks.agent.activity import CPU
from modelworks.agent.node import GpuMonitor
from modelworks.runtime import processes
from modelworks.runtime.launch import Gpu
from modelworks.runtime.limits import MemoryGroup
from modelworks.runtime.processes import Processes

PERIOD = 2.0
HISTORY = 1800  # samples: one hour
Sample = dict[str, float]
OBSERVED = ("cpu", "memory", "gpu", "gpu_memory_busy")
"""What of a sample is in the run's observation."""


class RunMeter:
    """Measures one run's tree."""

    def __init__(self, shim: int, group: MemoryGroup | None, gpus: tuple[Gpu, ...], file: Path) -> None:
        self.shim = shim
        self.group = group
        self.gpus = gpus
        self.history = History(file)
        self._last: tuple[float, float] | None = None  # monotonic time, CPU seconds
        self._pressed: dict[int, float] = {}  # process → seconds of its main thread, at that time

    def sample(self, seen: Processes, monitor: GpuMonitor) -> Sample | None:
        """One sample, appended to the history; None when the tree is gone."""
        tree = seen.tree(self.shim)
        if not tree:
            return None
        now, used = time.monotonic(), sum(process.cpu_seconds for process in tree)
        cores = max(0.0, (used - self._last[1]) / (now - self._last[0])) if self._last and now > self._last[0] else 0.0
        pids = [process.pid for process in tree]
        pressed = self._pressing(pids, now)
        self._last = (now, used)
        memory = self.group.used() if self.group else processes.proportional_memory(pids)
        gpu = monitor.usage(self.gpus)
        read, written = processes.io_bytes(pids)
        sample = {
            "at": round(time.time(), 3),
            "cpu": round(cores, 3),
            "memory": float(memory),
            "gpu": round(gpu.busy, 3),
            "gpu_memory": gpu.memory,
            **({"gpu_memory_busy": round(gpu.memory_busy, 3)} if self.gpus else {}),
            **({} if gpu.known else {"gpu_unknown": 1.0}),
            **({"pressed": round(pressed, 3)} if cores <= CPU else {}),
            "read": float(read),
            "written": float(written),
        }
        self.history.append(sample)
        return sample

    def _pressing(self, pids: list[int], now: float) -> float:
        """The share of the time (0-1) in which one of the main threads ran or waited for a CPU: of the busiest one."""
        before, self._pressed = self._pressed, processes.ran_or_waited(pids)
        if self._last is None or now <= self._last[0]:
            return 0.0
        spent = [seconds - before.get(pid, 0.0) for pid, seconds in self._pressed.items()]
        return min(1.0, max(spent, default=0.0) / (now - self._last[0]))

    def memory(self, seen: Processes, limit: int) -> int:
        """What the watcher compares with the limit: the cheap sum first, the exact one only when it matters."""
        tree = seen.tree(self.shim)
        resident = sum(process.rss for process in tree)
        return resident if resident <= limit else processes.proportional_memory(process.pid for process in tree)


class History:
    """A bounded file of samples: it is cut to ``HISTORY`` lines when it has twice as many."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = sum(1 for _ in read(path))

    def append(self, sample: Sample) -> None:
        with self.path.open("a", encoding="ascii") as file:
            file.write(json.dumps(sample, separators=(",", ":")) + "\n")
        self._lines += 1
        if self._lines >= 2 * HISTORY:
            lines = self.path.read_text(encoding="ascii").splitlines(keepends=True)[-HISTORY:]
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(lines), encoding="ascii")
            temporary.rename(self.path)
            self._lines = len(lines)


def read(path: Path) -> Iterator[Sample]:
    """Samples of a history, oldest first. A line that a crash cut short is skipped."""
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        if line.endswith("}"):
            yield json.loads(line)
