"""Five hundred jobs of three workspaces, and ten deaths of the controller."""

from __future__ import annotations

import json

import pytest
from tests import leftovers, queue_load
from tests.cli_platform import fresh

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def test_five_hundred_jobs_and_ten_kills() -> None:
    with fresh() as mw:
        document = json.loads(mw.home.client.read_text())
        client = Client(document["url"], document["api_key"], patience=60.0)
        try:
            queue_load.ordeal(mw, client, count=500, kills=10, seed=7)
        finally:
            client.close()
        mw.ok("down", "--grace", "5")
        assert leftovers.of_platform(mw.home) == []
