"""Long forms: ten preemptions of one job, a whole notice of a minute, hundreds of jobs that are cancelled."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import leftovers, train_ddp
from tests.cli_platform import Mw, fresh
from tests.e2e import test_preemption as short

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
CANCELLED = max(200, int(float(os.environ.get("SOAK_SECONDS", "0")) / 3))


@pytest.fixture
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []


@pytest.fixture
def client(mw: Mw) -> Iterator[Client]:
    document = json.loads(mw.home.client.read_text())
    one = Client(document["url"], document["api_key"])
    yield one
    one.close()


def test_ten_preemptions_at_random_moments_leave_the_weights_as_they_would_be(
    mw: Mw, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(short, "PATIENCE", 900.0)  # on a busy machine workloads have what everything else leaves
    shutil.copy(train_ddp.__file__, tmp_path / "train_ddp.py")
    spec: dict[str, Any] = {"code": ".", "replicas": 2, "env": {"PAUSE": "0.2"}, "checkpoint": {"every": 5}}
    short.disturb(mw, client, tmp_path, [random.choice([0, 0, 1, 1, 1, 2]) for _ in range(10)], **spec)


def test_torchrun_takes_forty_seconds_of_a_notice_of_a_minute(mw: Mw, client: Client, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    short.torchrun_saves(mw, client, tmp_path, saves=40.0, notice=60.0)


def test_hundreds_of_cancelled_jobs_leave_nothing(mw: Mw, client: Client) -> None:
    before = leftovers.agents(mw.home)
    short.cancel_at_random_moments(mw, client, CANCELLED)
    assert leftovers.agents(mw.home) == before
