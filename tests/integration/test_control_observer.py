"""The observer of one node, with a door in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from sqlalchemy import create_engine
from tests.sample_kind import MemoryRuntime

from modelworks.control import observer as module
from modelworks.control.fleet import Fleet
from modelworks.control.observer import Observer, Recorder
from modelworks.kernel.run import NodeObservation, RunObservation
from modelworks.runtime.base import Runtime


class BusyRuntime(MemoryRuntime):
    """Something changes at every look."""

    def changes(self, since: int, timeout: float) -> tuple[int, Sequence[str]]:
        time.sleep(0.001)
        return since + 1, ("aaaaaaaa/a1/0/0",)


def test_a_busy_node_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else admission takes it for away after a while, and gives it no work, because it works."""
    monkeypatch.setattr(module, "_LONG_POLL", 0.02)
    often = threading.Semaphore(0)

    class Heard(Recorder):
        def seen(self, node: NodeObservation) -> None:
            often.release()

        def tidy(self, door: Runtime, runs: Sequence[RunObservation]) -> bool:
            return False

    observer = Observer(BusyRuntime(), Fleet(), lambda uid: None, Heard(create_engine("sqlite://")))
    observer.start()
    try:
        for _ in range(3):
            assert often.acquire(timeout=10)
    finally:
        observer.stop()
        observer.join(10)
