"""Ten minutes of two hundred requests a second, while the service and the platform below it are changed and broken."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import leftovers, ordeals
from tests.cli_platform import Mw, fresh
from tests.constant_load import constant

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))


@pytest.fixture
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one
        one.ok("down", "--grace", "5")
        assert leftovers.of_platform(one.home) == []


@pytest.fixture
def client(mw: Mw) -> Iterator[Client]:
    document = json.loads(mw.home.client.read_text())
    one = Client(document["url"], document["api_key"], patience=60.0)
    yield one
    one.close()


def test_every_request_is_answered_for_minutes(
    mw: Mw, client: Client, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rest, done = random.Random(29), Counter[str]()
    echo = ordeals.Echo(mw, client, tmp_path, replicas=3)
    with constant(client.service_endpoint("echo"), client.service_token("echo")) as calls:
        versions = map(str, itertools.count(2))

        def change() -> None:
            before = echo.version
            rest.choice((ordeals.rolling_update, ordeals.canary))(echo, calls, next(versions))
            if rest.random() < 0.5:
                ordeals.rollback(echo, calls, before)

        ordeal: dict[str, Callable[[], None]] = {
            "change": change,
            "gateway": lambda: ordeals.gateway_restarts(mw, calls, 15),
            "controller": lambda: ordeals.killed(mw, calls, "controller"),
            "agent": lambda: ordeals.killed(mw, calls, "agent"),
            "down": lambda: ordeals.database_down(mw, calls, 10),
            "silent": lambda: ordeals.database_silent(mw, calls, 10),
        }
        calls.last(1)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or len(done) < len(ordeal):
            name = rest.choice([one for one in ordeal if done[one] == min(done[other] for other in ordeal)])
            ordeal[name]()
            done[name] += 1
    record_property("calls", str(calls.seen))
    record_property("ordeals", str(dict(done)))
    assert calls.seen.failed == [], str(calls.seen)
    assert calls.seen.right == calls.seen.sent
