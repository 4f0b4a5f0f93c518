"""Until when a run is paid for of which nothing tells how it ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from modelworks.runtime.local import LocalRuntime
from modelworks.runtime.rundir import RunDirectory


@pytest.fixture
def lost(tmp_path: Path) -> RunDirectory:
    """It began an hour ago, and was last measured and heard of 40 and 30 minutes ago."""
    now, directory = time.time(), RunDirectory(tmp_path)
    directory.write("started", {"shim": 1, "pid": 2, "at": now - 3600})
    for path, age in ((directory.metrics, 2400), (directory.log, 1800)):
        path.write_text("x")
        os.utime(path, (now - age, now - age))
    return directory


@pytest.mark.parametrize(("booted", "ago"), [(86_400, 0), (600, 1800), (2000, 2000)])
def test_a_run_that_went_down_with_its_machine_ended_then(
    lost: RunDirectory, monkeypatch: pytest.MonkeyPatch, booted: float, ago: float
) -> None:
    monkeypatch.setattr(time, "clock_gettime", lambda clock: booted)
    assert time.time() - LocalRuntime().died_at(lost) == pytest.approx(ago, abs=5)


def test_one_that_never_began_ends_now(tmp_path: Path) -> None:
    assert time.time() - LocalRuntime().died_at(RunDirectory(tmp_path)) == pytest.approx(0, abs=5)
