"""What a run reports of itself, as its agent keeps it: the last word of its progress, and all values by step.

Values come from ``$MW_METRICS_FILE`` and from its log. They are written to ``reports.jsonl`` of the run's directory,
one ``{at, step, name: value …}`` a line, each once: how far was read is noted after each look, and what a crash left
behind that note is cut off and read again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from modelworks.agent import told
from modelworks.agent.scan import LogScan, whole
from modelworks.kernel.run import Progress, RunSpec
from modelworks.runtime.exchange import METRICS, PROGRESS, Exchange
from modelworks.runtime.rundir import RunDirectory

TELL = 4.0
"""Seconds between two words about the progress of a run to those who wait for changes."""
_PIECE = 256 * 1024
_PIECES = 16  # of each source in one look: what is more comes with the next
_LARGEST = 256 << 20  # bytes of values of one run; further ones are dropped
_NOTE = "reports.json"


class RunReports:
    """One run's. ``checkpoint`` says the step of the last one that is whole in the object store."""

    def __init__(self, directory: RunDirectory, spec: RunSpec, checkpoint: Callable[[], int | None]) -> None:
        self.progress: Progress | None = None
        self._directory = directory
        self._exchange = Exchange(directory.exchange)
        self._checkpoint = checkpoint
        note = directory.read(_NOTE) or {}
        self._metrics, self._log, self._size = (int(note.get(name, 0)) for name in ("metrics", "log", "size"))
        self._scan = LogScan(spec.numbers, note.get("scan")) if spec.numbers else None
        self._word = b""
        self._found: dict[str, float] = {}
        self._told_at = -TELL
        self._told: Progress | None = None
        self._lock = threading.Lock()

    def look(self) -> bool:
        """Read what is new; True when those who wait for changes should hear of the progress. Blocks on the disk."""
        with self._lock:
            self._look(final=False)
            now = time.monotonic()
            if self.progress == self._told or now - self._told_at < TELL:
                return False
            self._told, self._told_at = self.progress, now
            return True

    def finish(self) -> None:
        """After the process ended: everything, with a last line that nothing ends."""
        with self._lock:
            self._look(final=True)

    def _look(self, *, final: bool) -> None:
        now = time.time()
        lines = self._reported(now) + self._scanned(now, final=final)
        if lines:
            self._append(lines)
        word = self._exchange.read(PROGRESS)
        if word != self._word:
            self._word, known = word, told.progress(word, now)
            self.progress = known or self.progress
        elif not word and self._found:
            step = int(self._found.get("step", 0))
            metrics = {name: value for name, value in self._found.items() if name not in ("at", "step")}
            self.progress = Progress(at=self._found["at"], step=step, metrics=metrics)
        if self.progress is not None and self.progress.checkpoint != (last := self._checkpoint()):
            self.progress = self.progress.model_copy(update={"checkpoint": last})

    def _reported(self, now: float) -> list[dict[str, float]]:
        found = []
        for _ in range(_PIECES):
            data = self._exchange.read(METRICS, self._metrics, _PIECE)
            size = whole(data)
            if not size:
                break
            self._metrics += size
            found += [report for line in data[:size].splitlines() if (report := told.report(line, now))]
        return found

    def _scanned(self, now: float, *, final: bool) -> list[dict[str, float]]:
        if self._scan is None:
            return []
        if self.progress is not None and self._word and "step" not in self._scan.counts:
            self._scan.step = self.progress.step
        found = []
        for _ in range(_PIECES):
            data = self._directory.read_log(self._log, _PIECE)
            size = whole(data) or (len(data) if final else 0)
            if not size:
                break
            self._log += size
            found += self._scan.feed(data[:size], now)
        for report in found:
            self._found |= report
        return found

    def _append(self, reports: list[dict[str, float]]) -> None:
        data = "".join(f"{json.dumps(report, separators=(',', ':'))}\n" for report in reports).encode()
        if self._size + len(data) <= _LARGEST:
            descriptor = os.open(self._directory.reports, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(data)
            self._size += len(data)
        self._note({"metrics": self._metrics, "log": self._log, "size": self._size})

    def _note(self, document: dict[str, Any]) -> None:
        if self._scan is not None:
            document["scan"] = self._scan.state
        temporary = self._directory.path / f".{_NOTE}"
        temporary.write_text(json.dumps(document), "ascii")
        temporary.rename(self._directory.path / _NOTE)
