"""A platform of its own for each module, and its client. What a platform leaves behind fails the module."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests import leftovers
from tests.cli_platform import Mw, fresh

from modelworks.sdk.client import Client


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one
        one.ok("down", "--grace", "5")
        assert leftovers.of_platform(one.home) == []


@pytest.fixture(scope="module")
def client(mw: Mw) -> Iterator[Client]:
    """It waits for as long as a platform under attack may need."""
    document = json.loads(mw.home.client.read_text())
    one = Client(document["url"], document["api_key"], patience=60.0)
    yield one
    one.close()
