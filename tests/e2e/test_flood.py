"""Ten times what a service can do, on the whole platform: it serves what it can, refuses the rest, and is well then."""

from __future__ import annotations

import json

import pytest
from tests import flood
from tests.agents import poll
from tests.bench.openloop import Target, send
from tests.cli_platform import Mw

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("services")]
_MIB = 1024 * 1024


@pytest.fixture(scope="module")
def paced(mw: Mw, tmp_path_factory: pytest.TempPathFactory) -> Target:
    document = json.loads(mw.home.client.read_text())
    client = Client(document["url"], document["api_key"])
    target = flood.deploy(mw, client, tmp_path_factory.mktemp("paced"))
    client.close()
    assert flood.statuses(send(target, 50, 1)) == {200: 50}
    return target


def test_twice_as_much_for_two_seconds_is_wholly_served(paced: Target) -> None:
    assert flood.statuses(send(paced, 2 * flood.CAPACITY, 2)) == {200: 4 * flood.CAPACITY}


def test_ten_times_as_much_breaks_nothing(mw: Mw, paced: Target) -> None:
    gateways = flood.Gateways(mw)
    before = gateways.memory()
    refused = gateways.sample('mw_gateway_rejections_total{service="paced",reason="limit-exceeded"}')
    found = flood.statuses(send(flood.hurried(paced, 1.0), 10 * flood.CAPACITY, 5))
    assert set(found) == {200, 429}
    assert found[200] >= flood.CAPACITY  # what a loaded machine still serves in the time
    assert gateways.sample("mw_gateway_errors_total") == 0
    assert (
        gateways.sample('mw_gateway_rejections_total{service="paced",reason="limit-exceeded"}') - refused == found[429]
    )
    assert gateways.sample('mw_gateway_refusal_seconds_count{service="paced"}') == refused + found[429]
    assert gateways.same()
    assert gateways.memory("VmHWM") - before <= 64 * _MIB
    # Nothing of the flood is left: the next ones find no queue.
    poll(lambda: gateways.sample("mw_gateway_queue_depth") == 0)
    assert flood.statuses(send(paced, 20, 1)) == {200: 20}
