"""Whether a run works: what it puts out, the steps it tells of, its CPUs, its disk and its GPUs. Pure.

A program that computes in silence works: its CPUs say so. A blocked all-reduce does not: it waits in the kernel. On
GPUs it is the other way round, since there a blocked collective spins: the GPU is busy, its memory is not touched, and
a CPU polls beside it. That is told apart only where the script tells of its steps, and they have stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

CPU = 0.05
"""Cores above which a run works. A hundred threads that look twice a second whether to end use less."""
PRESSED = 0.3
"""The share of time in which a main thread ran or waited for a CPU, above which a run works, however little it gets."""
GPU = 0.02
"""The share of time (0-1) in which a kernel ran, above which a GPU works."""
GPU_MEMORY = 0.01
"""The share of time in which a GPU's memory was read or written; below it, a busy GPU spins."""
MOVED = 256 * 1024
"""Bytes read from and written to devices between two samples, above which a run works."""
STEPS_STOPPED = 30.0
"""Seconds without another step, after which a script that told of steps is believed to do none."""


@dataclass(frozen=True)
class Signs:
    """What is seen of a run at a moment: Unix seconds, bytes of its log, its last word of progress with its step and
    the median seconds of one, and the last sample (``cpu`` cores, ``gpu`` and ``gpu_memory_busy`` 0-1, ``pressed`` 0-1,
    ``read`` and ``written`` bytes in all)."""

    at: float
    log_bytes: int = 0
    word: bytes = b""
    step: int | None = None
    step_seconds: float | None = None
    sample: Mapping[str, float] | None = None


class Activity:
    """One run's. ``active_at`` is the last sign of work; ``idle`` after ``quiet`` seconds without another.

    Where the script tells how long its steps take, a run is idle only after ``steps`` of them, too.
    """

    def __init__(self, quiet: float | None, steps: float = 0.0) -> None:
        self.quiet = quiet
        self.steps = steps
        self.active_at: float | None = None
        self.idle = False
        self._before: Signs | None = None
        self._stepped_at: float | None = None
        self._log_bytes = 0  # the most there were: what the platform itself writes there is taken off

    def look(self, now: Signs) -> bool:
        """Take a look; True when ``idle`` is another than before."""
        before, self._before = self._before, now
        if now.step is not None and (before is None or before.step != now.step):
            self._stepped_at = now.at
        # The first look has nothing to compare with: a run is believed to work.
        if before is None or self.active_at is None or self._works(before, now):
            self.active_at = now.at
        self._log_bytes = max(self._log_bytes, now.log_bytes)
        was, self.idle = self.idle, now.at - self.active_at >= self._patience(now)
        return self.idle != was

    def _patience(self, now: Signs) -> float:
        return math.inf if self.quiet is None else max(self.quiet, self.steps * (now.step_seconds or 0.0))

    def _works(self, before: Signs, now: Signs) -> bool:
        if now.log_bytes > self._log_bytes or now.word != before.word:
            return True
        sample, last = now.sample, before.sample
        if sample is None or last is None or sample.get("gpu_unknown"):
            return True  # nothing was measured: nothing is known
        moved = sum(sample.get(name, 0.0) - last.get(name, 0.0) for name in ("read", "written"))
        if moved > MOVED:
            return True
        if self._spins(sample, now.at):
            return False
        if sample.get("pressed", 0.0) > PRESSED:
            return True  # a machine that has too much to do
        return sample.get("cpu", 0.0) > CPU or sample.get("gpu", 0.0) > GPU

    def _spins(self, sample: Mapping[str, float], now: float) -> bool:
        """GPUs that wait for others look busy, and so do the CPUs that wait for the GPUs."""
        busy, memory = sample.get("gpu", 0.0), sample.get("gpu_memory_busy")
        stopped = self._stepped_at is not None and now - self._stepped_at >= STEPS_STOPPED
        return memory is not None and busy > 0.5 and memory < GPU_MEMORY and stopped
