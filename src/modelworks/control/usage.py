"""What replicas use, fresh: asked of their nodes every few seconds, for the services that scale by it.

A node tells of its own accord only what changes a run; CPU and GPU change all the time, and few services need them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from modelworks.control.fleet import Fleet
from modelworks.kernel.errors import ModelworksError

_log = logging.getLogger(__name__)

_PERIOD = 2.0  # that of the agents' samples
_INTEREST = 60.0  # seconds that an interest lasts which nobody repeats


class UsageReader(threading.Thread):
    """``wake`` is called with each uid whose replicas were measured."""

    def __init__(self, fleet: Fleet, wake: Callable[[str], None]) -> None:
        super().__init__(name="usage", daemon=True)
        self._fleet = fleet
        self._wake = wake
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}  # uid → when the interest ends, monotonic

    def stop(self) -> None:
        self._stopping.set()

    def measure(self, uid: str) -> None:
        """Keep the usage of its runs fresh for the next minute."""
        with self._lock:
            self._until[uid] = time.monotonic() + _INTEREST

    def run(self) -> None:
        while not self._stopping.wait(_PERIOD):
            now = time.monotonic()
            with self._lock:
                self._until = {uid: until for uid, until in self._until.items() if until > now}
                uids = sorted(self._until)
            for uid in uids:
                try:
                    if self._look(uid):
                        self._wake(uid)
                except Exception:
                    _log.exception("usage.failed", extra={"uid": uid})

    def _look(self, uid: str) -> bool:
        """Whether it has runs. A node that does not answer is its observer's to deal with."""
        found = False
        for name in self._fleet:
            picture = self._fleet.picture(name)
            if not picture.of(uid):
                continue
            begun = picture.begin()
            try:
                picture.replace(begun, uid, self._fleet.runtime(name).observe(f"{uid}/"))
            except ModelworksError:
                continue
            found = True
        return found
