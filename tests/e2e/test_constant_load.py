"""A service that is called two hundred times a second, whatever is done to it and to the platform below it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import leftovers, ordeals
from tests.cli_platform import Mw, fresh
from tests.constant_load import constant

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("constant-load")]


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one
        one.ok("down", "--grace", "5")
        assert leftovers.of_platform(one.home) == []


@pytest.fixture(scope="module")
def client(mw: Mw) -> Iterator[Client]:
    document = json.loads(mw.home.client.read_text())
    one = Client(document["url"], document["api_key"])
    yield one
    one.close()


def test_every_request_is_answered_whatever_happens(
    mw: Mw, client: Client, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    echo = ordeals.Echo(mw, client, tmp_path, replicas=2)
    with constant(client.service_endpoint("echo"), client.service_token("echo")) as calls:
        calls.last(1)
        ordeals.rolling_update(echo, calls, "2")
        ordeals.canary(echo, calls, "3")
        ordeals.rollback(echo, calls, "2")
        ordeals.gateway_restarts(mw, calls, 15)
        ordeals.killed(mw, calls, "controller")
        ordeals.database_down(mw, calls, 10)
        ordeals.database_silent(mw, calls, 3)
        calls.last(1)
    record_property("calls", str(calls.seen))
    assert calls.seen.failed == [], str(calls.seen)
    assert calls.seen.right == calls.seen.sent
    mw.ok("service", "delete", "echo")
