"""Two hundred submissions a second for minutes, while everything is killed again and again."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import leftovers, submissions
from tests.cli_platform import Mw, fresh

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
VICTIMS = ("courier", "gateway", "replica", "postgres", "agent", "controller", "weed", "supervisor")
PACE = 200.0
SECONDS = float(os.environ.get("SOAK_SECONDS", "300"))


@pytest.fixture
def mw(tmp_path: Path) -> Iterator[Mw]:
    with fresh() as one:
        submissions.deploy(one, tmp_path, replicas=3)
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []


def test_no_task_is_lost_and_none_is_answered_twice(mw: Mw, record_property: Callable[[str, object], None]) -> None:
    rest, killed = random.Random(23), list[str]()
    uid = json.loads(mw.ok("service", "get", "later", "--json"))["metadata"]["uid"]
    begun = time.monotonic()
    end = begun + SECONDS
    with submissions.steady(mw, PACE, threads=16) as submitted:
        while time.monotonic() < end:
            submitted.more(200)
            name = rest.choice(VICTIMS)
            submissions.kill(mw, uid, name, rest)
            killed.append(name)
            time.sleep(rest.uniform(0, 4))
        rate = len(submitted.accepted) / (time.monotonic() - begun)
    # What is not accepted while something begins again is offered again, and caught up with.
    assert rate >= 0.9 * PACE, (rate, submitted.refused)
    submissions.check(submitted, timeout=900)
    record_property("accepted", len(submitted.accepted))
    record_property("refused", str(submitted.refused))
    record_property("killed", len(killed))
    record_property("accepted_per_second", round(rate, 1))
