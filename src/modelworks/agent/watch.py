"""The agent's eye on its runs: whether they work, how far they are. It is in their observations, told as it changes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

from modelworks.agent.activity import Activity, Signs
from modelworks.agent.logtimes import LogTimes
from modelworks.agent.metrics import Sample
from modelworks.agent.reports import RunReports
from modelworks.kernel.run import RunSpec
from modelworks.runtime import container
from modelworks.runtime.exchange import PROGRESS, Exchange
from modelworks.runtime.rundir import RunDirectory


class RunWatch:
    """One run's. Whether it is idle is not looked at where its ``quiet`` is None, or its processes cannot be seen.

    ``checkpoint`` says the step of the last one that is whole in the object store.
    """

    def __init__(self, directory: RunDirectory, spec: RunSpec, checkpoint: Callable[[], int | None]) -> None:
        self._directory = directory
        self._exchange = Exchange(directory.exchange)
        # What runs in docker's containers is no child of ours: it would always look idle.
        seen = spec.image is None or container.named() == "podman"
        self._activity = Activity(spec.quiet if seen else None, spec.quiet_steps)
        self._own = 0
        self.reports = RunReports(directory, spec, checkpoint)
        self.times = LogTimes(directory)

    @property
    def said(self) -> dict[str, Any]:
        """The fields of an observation."""
        activity = {"active_at": self._activity.active_at, "idle": self._activity.idle}
        return {**activity, "progress": self.reports.progress}

    def wrote(self, count: int) -> None:
        """The platform itself is about to append so many bytes to the log: that is no sign of the run's."""
        self._own += count

    def look(self, sample: Sample) -> bool:
        """After a sample was taken; True when the run's observation is another. Blocks for a moment on the disk."""
        news = self.reports.look()
        if self._activity.quiet is None:
            return news
        word = self._exchange.read(PROGRESS)
        step, seconds = _told(word)
        log_bytes = self._directory.log_size() - self._own
        return self._activity.look(Signs(time.time(), log_bytes, word, step, seconds, sample or None)) or news

    def finish(self) -> None:
        """After the process ended: what it reported last. Raises OSError of the disk."""
        self.reports.finish()
        self.times.look()


def _told(word: bytes) -> tuple[int | None, float | None]:
    """The step and the median seconds of one. What a workload wrote is not believed to be what it should be."""
    try:
        document = json.loads(word)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(document, dict):
        return None, None
    step, seconds = document.get("step"), document.get("step_seconds")
    known = float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else None
    return step if isinstance(step, int) else None, known
