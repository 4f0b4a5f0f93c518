"""Counters of one service, and their Prometheus text. The hot path adds to integers only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from modelworks.kernel.traffic import LATENCY_BUCKETS

_GONE_KEPT = 8


class Histogram:
    """Seconds in the buckets of ``LATENCY_BUCKETS``, and one more of all that took longer."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.seconds += seconds


class RevisionMetrics:
    """``answers`` by status as the replicas gave it; ``broken``: answers that never came whole. ``events`` of
    event streams, ``first_event`` after so many seconds, and ``event_seconds`` from the first to the last of each."""

    __slots__ = ("answers", "broken", "event_seconds", "events", "first_event", "latency")

    def __init__(self) -> None:
        self.answers: dict[int, int] = {}
        self.broken = self.events = 0
        self.latency = Histogram()
        self.first_event = Histogram()
        self.event_seconds = 0.0

    def answered(self, status: int, seconds: float) -> None:
        answers = self.answers
        answers[status] = answers.get(status, 0) + 1
        latency = self.latency
        latency.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        latency.seconds += seconds

    def failed(self, seconds: float) -> None:
        """No whole answer after ``seconds``."""
        self.broken += 1
        self.latency.add(seconds)

    @property
    def total(self) -> int:
        return sum(self.latency.buckets)

    @property
    def errors(self) -> int:
        return self.broken + sum(count for status, count in self.answers.items() if status >= 500)


class ServiceMetrics:
    """``arrived``: requests that were allowed to ask. ``rejections`` by the gateway's own reason. ``waits``: seconds in
    the queue, of those who were in it; ``refusals``: from the moment a 429 was certain until it was written."""

    __slots__ = ("arrived", "mirror_dropped", "refusals", "rejections", "retries", "revisions", "waits")

    def __init__(self) -> None:
        self.revisions: dict[str, RevisionMetrics] = {}
        self.rejections: dict[str, int] = {}
        self.waits = Histogram()
        self.refusals = Histogram()
        self.arrived = self.retries = self.mirror_dropped = 0

    def revision(self, name: str) -> RevisionMetrics:
        """The counters of a revision, which it keeps over its replicas."""
        found = self.revisions.get(name)
        if found is None:
            found = self.revisions[name] = RevisionMetrics()
        return found

    def forget(self, present: Iterable[str]) -> None:
        """Drop the oldest of many revisions that have no replica any more."""
        kept = set(present)
        gone = [name for name in self.revisions if name not in kept]
        for name in gone[: max(0, len(gone) - _GONE_KEPT)]:
            del self.revisions[name]

    def rejected(self, reason: str) -> None:
        self.rejections[reason] = self.rejections.get(reason, 0) + 1

    @property
    def answers(self) -> dict[int, int]:
        """By status, of all revisions."""
        found: dict[int, int] = {}
        for revision in self.revisions.values():
            for status, count in revision.answers.items():
                found[status] = found.get(status, 0) + count
        return found


class Gauge(NamedTuple):
    """One service at this moment; ``oldest`` has waited so many seconds."""

    service: str
    metrics: ServiceMetrics
    in_flight: int
    queued: int
    oldest: float
    replicas: int
    hung: int


def render(
    gauges: Iterable[Gauge],
    *,
    connections: int,
    routes_age: float,
    waiting_bytes: int = 0,
    captured: int = 0,
    capture_dropped: int = 0,
) -> str:
    """Prometheus text format 0.0.4."""
    rows = list(gauges)
    lines: list[str] = []
    for name, value in (
        ("mw_gateway_connections", f"{connections}"),
        ("mw_gateway_routes_age_seconds", f"{routes_age:.3f}"),
        ("mw_gateway_waiting_bytes", f"{waiting_bytes}"),
    ):
        lines += [f"# TYPE {name} gauge", f"{name} {value}"]
    for name, value in (
        ("mw_gateway_captured_total", f"{captured}"),
        ("mw_gateway_capture_dropped_total", f"{capture_dropped}"),
    ):
        lines += [f"# TYPE {name} counter", f"{name} {value}"]
    lines.append("# TYPE mw_gateway_requests_total counter")
    for g, revision, counts in _revisions(rows):
        for status, count in sorted(counts.answers.items()):
            lines.append(f'mw_gateway_requests_total{{{_of(g, revision)},status="{status}"}} {count}')
    lines.append("# TYPE mw_gateway_errors_total counter")
    lines += [f"mw_gateway_errors_total{{{_of(g, revision)}}} {c.errors}" for g, revision, c in _revisions(rows)]
    lines.append("# TYPE mw_gateway_rejections_total counter")
    for g in rows:
        for reason, count in sorted(g.metrics.rejections.items()):
            lines.append(f'mw_gateway_rejections_total{{service="{_label(g.service)}",reason="{reason}"}} {count}')
    for name, kind, values in _of_services(rows):
        lines.append(f"# TYPE {name} {kind}")
        lines += [f'{name}{{service="{_label(g.service)}"}} {v}' for g, v in zip(rows, values, strict=True)]
    lines.append("# TYPE mw_gateway_request_seconds histogram")
    for g, revision, counts in _revisions(rows):
        latency = counts.latency
        lines += _histogram("mw_gateway_request_seconds", _of(g, revision), latency.buckets, latency.seconds)
    lines += _events(rows)
    lines.append("# TYPE mw_gateway_queue_seconds histogram")
    for g in rows:
        waits = g.metrics.waits
        buckets = list(waits.buckets)
        # Who did not wait is not counted on the way: everybody else who was answered.
        buckets[0] += max(0, sum(c.total for c in g.metrics.revisions.values()) - sum(buckets))
        lines += _histogram("mw_gateway_queue_seconds", f'service="{_label(g.service)}"', buckets, waits.seconds)
    lines.append("# TYPE mw_gateway_refusal_seconds histogram")
    for g in rows:
        found = g.metrics.refusals
        lines += _histogram(
            "mw_gateway_refusal_seconds", f'service="{_label(g.service)}"', found.buckets, found.seconds
        )
    return "\n".join(lines) + "\n"


def _events(rows: Sequence[Gauge]) -> list[str]:
    """Of those revisions that have answered with events."""
    found = [(_of(g, name), counts) for g, name, counts in _revisions(rows) if counts.events]
    lines = ["# TYPE mw_gateway_events_total counter"]
    lines += [f"mw_gateway_events_total{{{label}}} {counts.events}" for label, counts in found]
    lines.append("# TYPE mw_gateway_event_seconds_total counter")
    lines += [f"mw_gateway_event_seconds_total{{{label}}} {counts.event_seconds:.6f}" for label, counts in found]
    lines.append("# TYPE mw_gateway_first_event_seconds histogram")
    for label, counts in found:
        first = counts.first_event
        lines += _histogram("mw_gateway_first_event_seconds", label, first.buckets, first.seconds)
    return lines


def _of_services(rows: Sequence[Gauge]) -> list[tuple[str, str, list[str]]]:
    return [
        ("mw_gateway_arrivals_total", "counter", [f"{g.metrics.arrived}" for g in rows]),
        ("mw_gateway_retries_total", "counter", [f"{g.metrics.retries}" for g in rows]),
        ("mw_gateway_mirror_dropped_total", "counter", [f"{g.metrics.mirror_dropped}" for g in rows]),
        ("mw_gateway_in_flight", "gauge", [f"{g.in_flight}" for g in rows]),
        ("mw_gateway_queue_depth", "gauge", [f"{g.queued}" for g in rows]),
        ("mw_gateway_queue_oldest_seconds", "gauge", [f"{g.oldest:.3f}" for g in rows]),
        ("mw_gateway_replicas", "gauge", [f"{g.replicas}" for g in rows]),
        ("mw_gateway_replicas_hung", "gauge", [f"{g.hung}" for g in rows]),
    ]


def _revisions(rows: Iterable[Gauge]) -> list[tuple[Gauge, str, RevisionMetrics]]:
    return [(g, name, counts) for g in rows for name, counts in g.metrics.revisions.items()]


def _histogram(name: str, label: str, buckets: Sequence[int], seconds: float) -> list[str]:
    counts = list(accumulate(buckets))
    lines = [
        f'{name}_bucket{{{label},le="{bound}"}} {count}'
        for bound, count in zip((*LATENCY_BUCKETS, "+Inf"), counts, strict=True)
    ]
    return [*lines, f"{name}_sum{{{label}}} {seconds:.6f}", f"{name}_count{{{label}}} {counts[-1]}"]


def _of(gauge: Gauge, revision: str) -> str:
    return f'service="{_label(gauge.service)}",revision="{_label(revision)}"'


def _label(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
