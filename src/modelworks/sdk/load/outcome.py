"""What became of the requests of a step. Pure."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from modelworks.sdk.load.connection import Answer


@dataclass
class Outcome:
    """Counts of one step. Latencies are in seconds from the intended time, of good answers (2xx, 3xx) alone."""

    rate: float  # offered: requests a second
    duration: float  # seconds
    elapsed: float = 0.0  # seconds to the last answer, which may come long after the last request
    sent: int = 0
    good: int = 0
    limited: int = 0  # 429
    errors: int = 0  # everything else, timeouts and broken connections too
    latencies: array[float] = field(default_factory=lambda: array("d"))
    queued: array[float] = field(default_factory=lambda: array("d"))  # what the gateway says of its queue
    late: array[float] = field(default_factory=lambda: array("d"))  # how far behind the clock the generator was
    failures: dict[str, int] = field(default_factory=dict)

    def count(self, answer: Answer, latency: float) -> None:
        if 200 <= answer.status < 400:
            self.good += 1
            self.latencies.append(latency)
            if answer.queued is not None:
                self.queued.append(answer.queued)
            return
        if answer.status == 429:
            self.limited += 1
        else:
            self.errors += 1
        why = answer.failure or str(answer.status)
        self.failures[why] = self.failures.get(why, 0) + 1

    @property
    def ended(self) -> int:
        return self.good + self.limited + self.errors

    @property
    def goodput(self) -> float:
        """Good answers a second, from the begin to the last of them."""
        return self.good / max(self.duration, self.elapsed) if self.duration else 0.0

    @property
    def success(self) -> float:
        """The share of the requests that were answered well."""
        return self.good / self.sent if self.sent else 1.0

    def latency(self, share: float) -> float | None:
        return percentile(self.latencies, share)

    @property
    def mean_service(self) -> float | None:
        """Mean latency without the time in the gateway's queue."""
        if not self.latencies:
            return None
        total = sum(self.latencies) - sum(self.queued)
        return max(0.0, total / len(self.latencies))

    def document(self) -> dict[str, Any]:
        def ms(value: float | None) -> float | None:
            return None if value is None else round(1000 * value, 3)

        return {
            "rate": round(self.rate, 3),
            "duration": round(self.duration, 3),
            "sent": self.sent,
            "good": self.good,
            "limited": self.limited,
            "errors": self.errors,
            "goodput": round(self.goodput, 2),
            "p50_ms": ms(self.latency(0.5)),
            "p95_ms": ms(self.latency(0.95)),
            "p99_ms": ms(self.latency(0.99)),
            "queue_p99_ms": ms(percentile(self.queued, 0.99)),
            "late_p99_ms": ms(percentile(self.late, 0.99)),
            "failures": dict(self.failures),
        }


def percentile(values: array[float], share: float) -> float | None:
    """The smallest value that ``share`` of them are not above; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
