"""What the server counts, and its Prometheus text. The hot path adds to integers only."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Histogram:
    """Counts by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, text: str) -> list[str]:
        found = [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
        sums = list(accumulate(self.counts))
        found += [f'{name}_bucket{{le="{bound:g}"}} {count}' for bound, count in zip(self.bounds, sums, strict=False)]
        return [
            *found,
            f'{name}_bucket{{le="+Inf"}} {sums[-1]}',
            f"{name}_sum {self.total:g}",
            f"{name}_count {sums[-1]}",
        ]


class Statistics:
    """``skipped`` counts requests that were never computed, by reason: ``client-gone`` and ``deadline``."""

    def __init__(self) -> None:
        self.answered: Counter[int] = Counter()
        self.skipped: Counter[str] = Counter({"client-gone": 0, "deadline": 0})
        self.retried = 0
        self.beside = 0
        self._rows = Histogram(ROWS)
        self._seconds = Histogram(SECONDS)
        self._lock = threading.Lock()

    def computed(self, rows: int, seconds: float, beside: bool) -> None:
        """One call of the model, from any thread; ``beside`` others, with one CPU."""
        with self._lock:
            self.beside += beside
            self._rows.add(rows)
            self._seconds.add(seconds)

    def text(self, *, in_flight: int, queued: int, oldest: float) -> bytes:
        """Prometheus' text format."""
        lines = ["# HELP mw_requests_total Predictions answered, by status.", "# TYPE mw_requests_total counter"]
        lines += [f'mw_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.answered.items())]
        lines += [
            "# HELP mw_requests_skipped_total Predictions never computed: nobody waited for them any more.",
            "# TYPE mw_requests_skipped_total counter",
            *(f'mw_requests_skipped_total{{reason="{reason}"}} {n}' for reason, n in sorted(self.skipped.items())),
            "# HELP mw_requests_retried_total Predictions computed alone after their batch had failed.",
            "# TYPE mw_requests_retried_total counter",
            f"mw_requests_retried_total {self.retried}",
            "# HELP mw_calls_beside_total Calls of the model with one CPU, side by side with others.",
            "# TYPE mw_calls_beside_total counter",
            f"mw_calls_beside_total {self.beside}",
        ]
        for name, text, value in (
            ("mw_requests_in_flight", "Predictions being computed.", in_flight),
            ("mw_queue_depth", "Predictions that wait to be computed.", queued),
            ("mw_queue_oldest_seconds", "How long the first of them has waited.", round(oldest, 6)),
        ):
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
        with self._lock:
            lines += self._rows.lines("mw_batch_rows", "Rows in one call of the model.")
            lines += self._seconds.lines("mw_inference_seconds", "Time of one call of the model.")
        return ("\n".join(lines) + "\n").encode()
