"""Metrics of engines as standard values, and what is remarkable in the use of a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agent.gauges import NAMES, Scrape, values
from modelworks.kernel.run import RunObservation, RunPhase
from modelworks.products.serving.engines import notes, render, replicas_now
from modelworks.server.statistics import Statistics

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="chat"} 3.0
vllm:num_requests_running{engine="1",model_name="chat"} 2.0
vllm:num_requests_waiting{engine="0",model_name="chat"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="chat"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="chat"} 0.75
vllm:generation_tokens_total{engine="0",model_name="chat"} %s
vllm:request_success_total{finished_reason="stop"} 12.0
"""
LLAMACPP = """llamacpp:requests_processing 1
llamacpp:requests_deferred 4
llamacpp:n_busy_slots_per_decode 1.5
llamacpp:tokens_predicted_total 40
llamacpp:kv_cache_usage_ratio nan
"""


def test_vllm() -> None:
    before, now = Scrape.of(VLLM % "1000.0", 10.0), Scrape.of(VLLM % "1.1e3", 15.0)
    first = values(before, None)
    assert first == {"kv_cache": 0.75, "running": 5.0, "waiting": 7.0}
    assert values(now, before) == first | {"tokens_per_second": 20.0}
    assert "tokens_per_second" not in values(before, now), "its counter began anew"
    older = Scrape.of(VLLM.replace("kv_cache", "gpu_cache") % "1", 0.0)
    assert values(older, None)["kv_cache"] == 0.75


def test_llamacpp() -> None:
    before = Scrape.of(LLAMACPP, 0.0)
    assert values(before, None) == {"running": 1.0, "waiting": 4.0, "batch_mean": 1.5}
    assert values(Scrape.of(LLAMACPP.replace("40", "45"), 2.0), before)["tokens_per_second"] == 2.5


def test_the_platforms_own_server() -> None:
    statistics = Statistics()
    statistics.computed(1, 0.1, beside=False)
    before = Scrape.of(statistics.text(in_flight=0, queued=0, oldest=0.0).decode(), 0.0)
    for rows in (8, 4):
        statistics.computed(rows, 0.1, beside=False)
    now = Scrape.of(statistics.text(in_flight=4, queued=2, oldest=0.5).decode(), 5.0)
    assert values(now, before) == {"running": 4.0, "waiting": 2.0, "batch_mean": 6.0}


@given(st.text(max_size=400), st.text(max_size=400))
def test_any_text_is_taken(first: str, second: str) -> None:
    found = values(Scrape.of(LLAMACPP + second, 2.0), Scrape.of(first, 1.0))
    assert set(found) <= set(NAMES)
    assert all(value >= 0 for value in found.values())


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"gpu": 0.99, "gpu_memory_busy": 0.1}, True),
        ({"gpu": 0.95, "gpu_memory_busy": 0.2}, True),
        ({"gpu": 0.94, "gpu_memory_busy": 0.1}, False),
        ({"gpu": 0.99, "gpu_memory_busy": 0.21}, False),
        ({"gpu": 0.99}, False),
        ({}, False),
    ],
)
def test_a_busy_gpu_that_hardly_reads_memory(usage: dict[str, float], told: bool) -> None:
    found = notes(usage)
    assert bool(found) == told
    assert all("hardly reading memory" in note for note in found)


def observation(ordinal: int, ready: bool, **usage: float) -> RunObservation:
    key = f"0123456789abcdef/aabbccddeeff/{ordinal}/0"
    return RunObservation(key=key, phase=RunPhase.RUNNING, created_at=0.0, ready=ready, usage=usage)


def test_metrics_of_those_that_are_ready() -> None:
    runs = [
        observation(1, True, cpu=0.5, gpu=0.0, kv_cache=0.5, running=2.0),
        observation(0, True, cpu=0.5, gpu=1.0, gpu_memory_busy=0.125),
        observation(2, False, cpu=0.5, kv_cache=0.9),
        observation(3, True),
    ]
    found = replicas_now(runs)
    assert [one.replica for one in found] == ["aabbcc-0-0", "aabbcc-1-0"]
    assert "gpu" not in found[1].usage
    assert found[0].notes
    assert "\n".join(render({"chat": found, "none": []})).splitlines() == [
        "# TYPE mw_engine_kv_cache_ratio gauge",
        'mw_engine_kv_cache_ratio{service="chat",replica="aabbcc-1-0"} 0.5',
        "# TYPE mw_engine_requests_running gauge",
        'mw_engine_requests_running{service="chat",replica="aabbcc-1-0"} 2',
        "# TYPE mw_replica_gpu_busy_ratio gauge",
        'mw_replica_gpu_busy_ratio{service="chat",replica="aabbcc-0-0"} 1',
        "# TYPE mw_replica_gpu_memory_busy_ratio gauge",
        'mw_replica_gpu_memory_busy_ratio{service="chat",replica="aabbcc-0-0"} 0.125',
    ]
