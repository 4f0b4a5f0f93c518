"""What a training script tells of itself: its step, how fast it goes, what it measures, how long it waits for data.

Written to ``$MW_PROGRESS_FILE`` (replaced at most once a second) and ``$MW_METRICS_FILE`` (one JSON line a report),
where the platform set them; nowhere else.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from modelworks.train import group

log = logging.getLogger("modelworks.train")
T = TypeVar("T")
_PERIOD = 1.0  # seconds between writes
_WINDOW = 64  # steps of which the median and the shares are made
_MOST_LINES = 4096  # held back at most

_Step = tuple[float, float, Mapping[str, float]]  # seconds, of them waiting for data, amounts


class _Progress:
    """One process's account. Not for several threads, but for ``checkpointed``."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.step = 0
        self.steps: int | None = None
        self.epoch: float | None = None
        self.metrics: dict[str, Any] = {}
        self.checkpoint: int | None = None
        self.window: deque[_Step] = deque(maxlen=_WINDOW)
        self.lines: list[dict[str, Any]] = []
        self.last_step: float | None = None
        self.waited = 0.0
        self.written = -math.inf
        self.dirty = False
        self.troubled = False

    def take_step(self, n: int, steps: int | None, epoch: float | None, amounts: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self.last_step is not None and now > self.last_step:
            self.window.append((now - self.last_step, min(self.waited, now - self.last_step), amounts))
        self.last_step, self.waited, self.step = now, 0.0, n
        self.steps = steps if steps is not None else self.steps
        self.epoch = epoch if epoch is not None else self.epoch

    def take_metrics(self, metrics: Mapping[str, Any]) -> None:
        # A tensor on a GPU is read when it is written down: asking now would wait for the device.
        values = {name: value.detach() if hasattr(value, "detach") else value for name, value in metrics.items()}
        self.metrics.update(values)
        self.lines.append({"at": time.time(), "step": self.step, **values})
        self.dirty = True

    def document(self) -> dict[str, Any]:
        seconds = [step[0] for step in self.window]
        total = sum(seconds)
        names = {name for _, _, amounts in self.window for name in amounts}
        amounts = {name: sum(step[2].get(name, 0.0) for step in self.window) for name in names}
        return {
            "version": 1,
            "at": time.time(),
            "step": self.step,
            "steps": self.steps,
            "epoch": self.epoch,
            "step_seconds": statistics.median(seconds) if seconds else None,
            "data_share": sum(step[1] for step in self.window) / total if total else None,
            # The replica's: its other processes are at the same work.
            "rates": {name: group.local_size() * amount / total for name, amount in amounts.items()} if total else {},
            "metrics": {name: _number(value) for name, value in self.metrics.items()},
            "checkpoint": self.checkpoint,
        }

    def flush(self, force: bool) -> None:
        now = time.monotonic()
        due = force or now - self.written >= _PERIOD or len(self.lines) >= _MOST_LINES
        if not self.dirty or not due or self.owner != os.getpid() or group.local_rank() != 0:
            if group.local_rank() != 0:
                self.lines.clear()
            return
        self.written, self.dirty = now, False
        lines, self.lines = self.lines, []
        try:
            self._write(lines)
            self.troubled = False
        except OSError as error:  # a full disk, say: what is told of the training is no reason to end it
            if not self.troubled:
                log.warning("the progress cannot be written: %s", error)
            self.troubled = True

    def _write(self, lines: list[dict[str, Any]]) -> None:
        metrics, target = os.environ.get("MW_METRICS_FILE"), os.environ.get("MW_PROGRESS_FILE")
        if metrics and lines:
            text = "".join(f"{json.dumps({name: _number(v) for name, v in line.items()})}\n" for line in lines)
            with Path(metrics).open("a", encoding="utf-8") as file:
                file.write(text)
        if target:
            temporary = Path(f"{target}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self.document()), "utf-8")
            temporary.replace(target)


_progress = _Progress()


def step(
    n: int,
    *,
    steps: int | None = None,
    epoch: float | None = None,
    samples: float | None = None,
    tokens: float | None = None,
    **metrics: Any,
) -> None:
    """Say that ``n`` steps are done, of ``steps`` in all, in the (fractional) ``epoch``, with metrics such as ``loss``.

    ``samples`` and ``tokens`` are what this process went through in this step; the platform shows them per second.
    Numbers and tensors of one element are metrics. A call costs some microseconds, and waits for no device: files are
    written at most once a second, by the first process of each replica.
    """
    amounts = {"samples": samples, "tokens": tokens}
    _progress.take_step(n, steps, epoch, {name: float(a) for name, a in amounts.items() if a is not None})
    _progress.take_metrics(metrics)
    _progress.flush(force=False)


def note(metrics: Mapping[str, Any]) -> None:
    """Metrics of the step that was told last."""
    _progress.take_metrics(metrics)
    _progress.flush(force=False)


@contextmanager
def data_wait() -> Iterator[None]:
    """Time spent inside counts as waiting for data. The loader of this package does it by itself."""
    began = time.monotonic()
    try:
        yield
    finally:
        _progress.waited += time.monotonic() - began


def waiting(batches: Iterable[T]) -> Iterator[T]:
    """The same batches; the time each takes to come counts as waiting for data."""
    iterator = iter(batches)
    while True:
        try:
            with data_wait():
                batch = next(iterator)
        except StopIteration:
            return
        yield batch


def checkpointed(number: int) -> None:
    """A checkpoint of that step is whole on this machine. From any thread: it is told with the next write."""
    _progress.checkpoint = number
    _progress.dirty = True


def flush() -> None:
    """Write what was held back."""
    _progress.flush(force=True)


def _number(value: Any) -> float | int | None:
    """As JSON has it: None for what is no number, and for NaN and infinities."""
    try:
        number = value if isinstance(value, int | float) else float(value)
    except (TypeError, ValueError):
        return None
    return number if isinstance(number, int) or math.isfinite(number) else None


atexit.register(flush)
