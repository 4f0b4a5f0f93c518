"""The gateway's counters as Prometheus reads them."""

from __future__ import annotations

import re

from modelworks.gateway.metrics import Gauge, ServiceMetrics, render
from modelworks.kernel.traffic import LATENCY_BUCKETS


def gauge(metrics: ServiceMetrics, service: str = "digits") -> Gauge:
    return Gauge(service, metrics, in_flight=3, queued=2, oldest=1.5, replicas=4, hung=1)


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_each_revision_has_its_own_counts() -> None:
    metrics = ServiceMetrics()
    for seconds in (0.0005, 0.004, 400.0):
        metrics.revision("a").answered(200, seconds)
    metrics.revision("b").answered(503, 0.1)
    metrics.revision("b").failed(0.1)
    metrics.rejected("limit-exceeded")
    metrics.waits.add(0.004)
    found = values(render([gauge(metrics)], connections=1, routes_age=0.5, waiting_bytes=7))
    assert found['mw_gateway_requests_total{service="digits",revision="a",status="200"}'] == 3
    assert found['mw_gateway_errors_total{service="digits",revision="a"}'] == 0
    assert found['mw_gateway_errors_total{service="digits",revision="b"}'] == 2
    assert found['mw_gateway_rejections_total{service="digits",reason="limit-exceeded"}'] == 1
    assert found['mw_gateway_request_seconds_count{service="digits",revision="b"}'] == 2
    assert found['mw_gateway_request_seconds_bucket{service="digits",revision="a",le="0.001"}'] == 1
    assert found['mw_gateway_request_seconds_bucket{service="digits",revision="a",le="300.0"}'] == 2
    assert found['mw_gateway_request_seconds_bucket{service="digits",revision="a",le="+Inf"}'] == 3
    # All were in the queue for some time, all but one of them for none.
    assert found['mw_gateway_queue_seconds_count{service="digits"}'] == 5
    assert found['mw_gateway_queue_seconds_bucket{service="digits",le="0.001"}'] == 4
    assert found['mw_gateway_queue_oldest_seconds{service="digits"}'] == 1.5
    assert found["mw_gateway_waiting_bytes"] == 7


def test_each_metric_has_one_type_and_histograms_only_grow() -> None:
    metrics = ServiceMetrics()
    for i, bound in enumerate(LATENCY_BUCKETS):
        for _ in range(i % 3):
            metrics.revision("a").answered(200, bound)
    metrics.rejected("too-large")
    text = render([gauge(metrics), gauge(metrics, 'odd"\\name')], connections=0, routes_age=0.0)
    types = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    assert len(types) == len(set(types))
    names = {re.sub(r"(_bucket|_sum|_count)?\{.*| .*", "", line) for line in text.splitlines() if line[0] != "#"}
    assert names <= set(types)
    buckets = [v for name, v in values(text).items() if name.startswith('mw_gateway_request_seconds_bucket{service="d')]
    assert buckets == sorted(buckets)
    assert r'service="odd\"\\name"' in text


def test_revisions_of_long_ago_are_forgotten() -> None:
    metrics = ServiceMetrics()
    for number in range(100):
        metrics.revision(f"r{number}").answered(200, 0.1)
        metrics.forget(name for name in ("r0", f"r{number}"))
    assert len(metrics.revisions) <= 10
    assert "r0" in metrics.revisions
    assert "r99" in metrics.revisions
    assert "r98" in metrics.revisions
