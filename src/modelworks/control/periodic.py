"""Work that comes round: trimming the events, measuring the buckets. What fails is logged and has its next turn."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from modelworks.db import events

_log = logging.getLogger(__name__)

KEEP_EVENTS = timedelta(days=90)
MOST_EVENTS = 2_000_000


@dataclass(frozen=True)
class Task:
    """``work`` is called every ``interval`` seconds, first after ``delay``."""

    name: str
    interval: float
    work: Callable[[], object]
    delay: float = 60.0


class Periodic(threading.Thread):
    """One thread for all tasks, one after the other."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__(name="periodic", daemon=True)
        self._tasks = tasks
        self._stopping = threading.Event()

    def stop(self) -> None:
        """The task under way is not waited for: all of them may be cut short."""
        self._stopping.set()

    def run(self) -> None:
        begun = time.monotonic()
        due = {task: begun + task.delay for task in self._tasks}
        while due:
            task = min(due, key=due.__getitem__)
            if self._stopping.wait(max(due[task] - time.monotonic(), 0.0)):
                return
            try:
                task.work()
            except Exception:
                _log.exception("periodic.failed", extra={"task": task.name})
            due[task] = time.monotonic() + task.interval


def trim_events(engine: Engine) -> None:
    """Drop what is old, in batches that hold no lock for long."""
    while True:
        with engine.begin() as connection:
            if not events.trim(connection, keep=KEEP_EVENTS, most=MOST_EVENTS):
                return
