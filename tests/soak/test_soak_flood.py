"""A minute of ten times what a service can do: what is served, how soon the rest is refused, and what is left of it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import flood, leftovers
from tests.bench.openloop import percentile, send
from tests.cli_platform import Mw, fresh

from modelworks.gateway.limits import Limits
from modelworks.sdk.client import Client

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
SECONDS = min(float(os.environ.get("SOAK_SECONDS", "60")), 60.0)
DEADLINE = 1.5
_MIB = 1024 * 1024


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


def test_ten_times_its_capacity_for_a_minute(
    mw: Mw, client: Client, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    target = flood.deploy(mw, client, tmp_path)
    assert flood.statuses(send(target, 50, 2)) == {200: 100}
    calm = percentile([call.took for call in send(target, 20, 5)], 0.9)
    usual = flood.goodput(send(target, flood.CAPACITY, 20), 2, 20)

    assert flood.statuses(send(target, 2 * flood.CAPACITY, 2)) == {200: 4 * flood.CAPACITY}

    flood.stalls(target)
    gateways = flood.Gateways(mw)
    memory, refusals = gateways.memory(), gateways.buckets("mw_gateway_refusal_seconds", "paced")
    answers = gateways.buckets("mw_gateway_request_seconds", "paced")
    over = time.monotonic() + SECONDS
    calls = send(flood.hurried(target, DEADLINE), 10 * flood.CAPACITY, SECONDS)
    stalls = flood.stalls(target)
    grown = gateways.memory("VmHWM") - memory
    time.sleep(max(0.0, over + 2.0 - time.monotonic()))
    after = [call.took for call in send(target, 20, 5)]

    found = flood.statuses(calls)
    served = flood.goodput(calls, 2, SECONDS)
    told = gateways.buckets("mw_gateway_refusal_seconds", "paced")
    answered = flood.since(gateways.buckets("mw_gateway_request_seconds", "paced"), answers)
    late = answered[math.inf] - answered[DEADLINE]
    # One that waits in vain at the replica is given up by the gateway's next sweep; the histogram has steps.
    given_up = DEADLINE + Limits().sweep + max(stalls, default=0.0)
    at_once = flood.share_within(told, refusals, 0.005)
    record_property("statuses", str(dict(found)))
    record_property("goodput", f"{served:.1f}/s of {usual:.1f}/s")
    record_property("refused within 5 ms", f"{at_once:.5f}")
    record_property("late", str(late))
    record_property("stalls of the machine", f"{len(stalls)}, the longest {max(stalls, default=0.0):.3f} s")
    record_property("memory", f"{grown / _MIB:.1f} MiB")
    record_property("p90 before and after", f"{calm * 1e3:.1f} ms, {percentile(after, 0.9) * 1e3:.1f} ms")
    assert set(found) - {408} == {200, 429}, found
    # What was accepted is answered in time. No gateway can foresee that the machine gives the replica no time: then the
    # one request that it works on is late (or a 408), and no other. Where it was never held up none may be.
    assert max(late, found[408]) <= min(len(stalls), 0.005 * found[200]), (late, found, stalls)
    assert answered[min(bound for bound in answered if bound >= given_up)] == answered[math.inf]
    assert gateways.sample("mw_gateway_errors_total") == 0
    assert gateways.same()
    assert at_once >= 0.99, told
    assert grown <= 64 * _MIB
    assert served >= 0.95 * usual
    assert percentile(after, 0.9) <= 2 * calm + 0.02
