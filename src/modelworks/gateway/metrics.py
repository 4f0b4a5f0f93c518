"""Counters of one service, and their Prometheus text. The hot path adds to integers only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class ServiceMetrics:
    """``answers`` by status as the replicas gave it; ``rejections`` by the gateway's own reason."""

    __slots__ = ("_counts", "_seconds", "answers", "rejections", "retries")

    def __init__(self) -> None:
        self.answers: dict[int, int] = {}
        self.rejections: dict[str, int] = {}
        self.retries = 0
        self._counts = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def answered(self, status: int, seconds: float) -> None:
        answers = self.answers
        answers[status] = answers.get(status, 0) + 1
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def rejected(self, reason: str) -> None:
        self.rejections[reason] = self.rejections.get(reason, 0) + 1

    @property
    def seconds(self) -> float:
        return self._seconds

    def cumulative(self) -> list[int]:
        """Counts up to each bucket, the last one of all."""
        return list(accumulate(self._counts))


class Gauge(NamedTuple):
    """One service at this moment."""

    service: str
    metrics: ServiceMetrics
    in_flight: int
    queued: int
    replicas: int


def render(gauges: Iterable[Gauge], *, connections: int, routes_age: float) -> str:
    """Prometheus text format 0.0.4."""
    rows = list(gauges)
    lines = ["# TYPE mw_gateway_connections gauge", f"mw_gateway_connections {connections}"]
    lines += ["# TYPE mw_gateway_routes_age_seconds gauge", f"mw_gateway_routes_age_seconds {routes_age:.3f}"]
    lines.append("# TYPE mw_gateway_requests_total counter")
    for g in rows:
        for status, count in sorted(g.metrics.answers.items()):
            lines.append(f'mw_gateway_requests_total{{service="{_label(g.service)}",status="{status}"}} {count}')
    lines.append("# TYPE mw_gateway_rejections_total counter")
    for g in rows:
        for reason, count in sorted(g.metrics.rejections.items()):
            lines.append(f'mw_gateway_rejections_total{{service="{_label(g.service)}",reason="{reason}"}} {count}')
    gauges_of = (
        ("mw_gateway_retries_total", "counter", [g.metrics.retries for g in rows]),
        ("mw_gateway_in_flight", "gauge", [g.in_flight for g in rows]),
        ("mw_gateway_queue_depth", "gauge", [g.queued for g in rows]),
        ("mw_gateway_replicas", "gauge", [g.replicas for g in rows]),
    )
    for name, kind, values in gauges_of:
        lines.append(f"# TYPE {name} {kind}")
        lines += [f'{name}{{service="{_label(g.service)}"}} {v}' for g, v in zip(rows, values, strict=True)]
    lines.append("# TYPE mw_gateway_request_seconds histogram")
    for g in rows:
        counts = g.metrics.cumulative()
        label = f'service="{_label(g.service)}"'
        for bound, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
            lines.append(f'mw_gateway_request_seconds_bucket{{{label},le="{bound}"}} {count}')
        lines.append(f"mw_gateway_request_seconds_sum{{{label}}} {g.metrics.seconds:.6f}")
        lines.append(f"mw_gateway_request_seconds_count{{{label}}} {counts[-1]}")
    return "\n".join(lines) + "\n"


def _label(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
