"""What is counted of each service, for the traffic report and the metrics."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelworks.kernel.traffic import LATENCY_BUCKETS


class Revision:
    """Answers of one revision: ``errors`` are 5xx and answers that never came whole; ``buckets`` are not cumulative."""

    __slots__ = ("answered", "buckets", "errors", "in_flight", "seconds")

    def __init__(self) -> None:
        self.answered = self.errors = self.in_flight = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)

    def add(self, seconds: float, *, error: bool) -> None:
        self.answered += 1
        self.errors += error
        self.seconds += seconds
        self.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1

    def document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("answered", "errors", "seconds", "buckets", "in_flight")}


class Counters:
    """One service. ``pending``, ``running`` and ``oldest`` are the database's, of all couriers; the rest is our own.
    ``hung`` are the ids of replicas that hold requests and say nothing."""

    def __init__(self) -> None:
        self.arrived = self.retried = self.told = self.untold = 0
        self.rejected: dict[str, int] = {}
        self.finished: dict[int, int] = {}  # by status of the result
        self.revisions: dict[str, Revision] = {}
        self.pending = self.running = 0
        self.oldest = 0.0
        self.hung: frozenset[str] = frozenset()

    def revision(self, name: str) -> Revision:
        found = self.revisions.get(name)
        if found is None:
            found = self.revisions[name] = Revision()
        return found

    def refuse(self, code: str) -> None:
        self.rejected[code] = self.rejected.get(code, 0) + 1

    @property
    def in_flight(self) -> int:
        return sum(one.in_flight for one in self.revisions.values())

    def report(self, *, whole: bool) -> dict[str, Any]:
        """One service of a traffic report. The queue is told by one courier only, by whom the report is ``whole``."""
        return {
            "in_flight": self.in_flight,
            "queued": self.pending if whole else 0,
            "oldest": round(self.oldest, 3) if whole else 0.0,
            "arrived": self.arrived,
            "rejected": dict(self.rejected),
            "hung": sorted(self.hung),
            "revisions": {name: one.document() for name, one in self.revisions.items()},
        }


def source() -> str:
    """Another name for each life of a process."""
    return f"courier-{os.getpid()}-{time.time_ns() // 1_000_000}"


def render(rows: Iterable[tuple[str, Counters]], captured: int = 0, capture_dropped: int = 0) -> str:
    """Prometheus text format 0.0.4, of services by name; captured requests of all of them."""
    found = sorted(rows, key=lambda row: row[0])
    lines: list[str] = []
    gauges: tuple[tuple[str, str, Callable[[Counters], float]], ...] = (
        ("mw_tasks_pending", "gauge", lambda c: c.pending),
        ("mw_tasks_running", "gauge", lambda c: c.running),
        ("mw_tasks_oldest_seconds", "gauge", lambda c: round(c.oldest, 3)),
        ("mw_tasks_in_flight", "gauge", lambda c: c.in_flight),
        ("mw_tasks_replicas_hung", "gauge", lambda c: len(c.hung)),
        ("mw_tasks_submitted_total", "counter", lambda c: c.arrived),
        ("mw_tasks_retries_total", "counter", lambda c: c.retried),
        ("mw_tasks_webhooks_total", "counter", lambda c: c.told),
        ("mw_tasks_webhooks_failed_total", "counter", lambda c: c.untold),
    )
    for name, kind, value in gauges:
        lines.append(f"# TYPE {name} {kind}")
        lines += [f'{name}{{service="{service}"}} {value(counters)}' for service, counters in found]
    divided: tuple[tuple[str, str, Callable[[Counters], Mapping[Any, int]]], ...] = (
        ("mw_tasks_finished_total", "status", lambda c: c.finished),
        ("mw_tasks_rejections_total", "reason", lambda c: c.rejected),
    )
    for name, label, of in divided:
        lines.append(f"# TYPE {name} counter")
        for service, counters in found:
            lines += [f'{name}{{service="{service}",{label}="{key}"}} {n}' for key, n in sorted(of(counters).items())]
    lines.append("# TYPE mw_tasks_attempt_seconds histogram")
    for service, counters in found:
        for revision, one in sorted(counters.revisions.items()):
            label, total = f'service="{service}",revision="{revision}"', 0
            for bound, count in zip((*LATENCY_BUCKETS, "+Inf"), one.buckets, strict=True):
                total += count
                lines.append(f'mw_tasks_attempt_seconds_bucket{{{label},le="{bound}"}} {total}')
            lines.append(f"mw_tasks_attempt_seconds_sum{{{label}}} {one.seconds:.6f}")
            lines.append(f"mw_tasks_attempt_seconds_count{{{label}}} {total}")
    lines += ["# TYPE mw_captures_total counter", f"mw_captures_total {captured}"]
    lines += ["# TYPE mw_captures_dropped_total counter", f"mw_captures_dropped_total {capture_dropped}"]
    return "\n".join(lines) + "\n"
