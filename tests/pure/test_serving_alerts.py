"""Alerts: of what lasts, and of nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modelworks.kernel.traffic import LATENCY_BUCKETS, RevisionCounts, Sample, Traffic
from modelworks.products.serving.alerts import ERROR_RATE, LATENCY, MAX_REPLICAS, Alerts, Breach, judge

START = 1_800_000_000.0


class Watch:
    """A service of 20 requests a second, looked at every 10 seconds."""

    def __init__(self, **fields: Any) -> None:
        self.alerts = Alerts.parse(fields)
        self.now, self.until = START, START
        self.answered = self.errors = self.refused = 0
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        self.samples: list[Sample] = []
        self.breaches: dict[str, Breach] = {}
        self.told: list[str] = []
        self.blind = False

    def run(
        self,
        seconds: int,
        *,
        errors: float = 0.0,
        latencies: dict[float, int] | None = None,
        most: str = "",
        down: bool = False,
        stopped: bool = False,
    ) -> None:
        for _ in range(seconds):
            self.now += 1
            if down:
                self.until = self.now
                self.refused += 20
                refusals = {"unavailable": self.refused, "limit-exceeded": 5 * self.refused}
                self.samples.append(
                    replace(self.samples[-1] if self.samples else Sample(self.now), at=self.now, refusals=refusals)
                )
            elif not self.blind:
                self.until = self.now
                self.answered += 20
                self.errors += round(20 * errors * (self.now - START)) - round(20 * errors * (self.now - START - 1))
                for bound, count in (latencies or {0.05: 20}).items():
                    self.buckets[LATENCY_BUCKETS.index(bound)] += count
                counts = RevisionCounts(self.answered, self.errors, 0.0, tuple(self.buckets))
                self.samples.append(Sample(self.now, arrived=self.answered, revisions={"r": counts}))
            if (self.now - START) % 10 == 0:
                traffic = Traffic(tuple(self.samples[-200:]), START, self.until)
                found = judge(self.alerts, self.breaches, traffic, most, self.now, stopped=stopped)
                self.breaches = {n: Breach.of(b.document()) for n, b in found.breaches.items()}
                self.told += [*found.began, *(f"-{name}" for name in found.ended)]
                assert (found.wake_in is not None) == bool(self.breaches)


def test_errors_that_last() -> None:
    it = Watch()
    it.run(120, errors=0.005)
    it.run(110, errors=0.05)
    assert it.told == []
    it.run(60, errors=0.05)
    assert it.told == [ERROR_RATE]
    assert "5.0% of the answers are errors; the bound is 1.0%" in it.breaches[ERROR_RATE].message
    it.run(60, errors=0.05)
    it.run(120)
    assert it.told == [ERROR_RATE, f"-{ERROR_RATE}"]


def test_an_outage_is_errors() -> None:
    it = Watch()
    it.run(120)
    it.run(200, down=True)
    assert it.told == [ERROR_RATE]
    it = Watch()
    it.run(300, down=True)  # nobody has ever answered
    assert it.told == [ERROR_RATE]
    assert "100.0% of the answers are errors" in it.breaches[ERROR_RATE].message
    it = Watch()
    it.run(600, down=True, stopped=True)
    assert it.told == []


def test_a_moment_of_errors_is_none() -> None:
    it = Watch()
    for _ in range(5):
        it.run(30, errors=0.5)
        it.run(120)
    assert it.told == []


def test_latency_has_a_bound_only_where_one_is_stated() -> None:
    slow = {0.02: 10, 10.0: 10}
    it = Watch()
    it.run(900, latencies=slow)
    assert it.told == []  # answers of two kinds
    it = Watch(p99=20)
    it.run(900, latencies=slow)
    assert it.told == []
    it = Watch(p99=1)
    it.run(400, latencies=slow)
    assert it.told == [LATENCY]


def test_no_more_replicas_to_order() -> None:
    it = Watch()
    it.run(100, most="12 replicas are wanted and max is 10")
    it.run(10)
    assert it.told == []
    it.run(200, most="12 replicas are wanted and max is 10")
    assert it.told == [MAX_REPLICAS]


def test_what_is_not_known_begins_and_ends_nothing() -> None:
    it = Watch(sustained=30)
    it.run(120, errors=0.05)
    assert it.told == [ERROR_RATE]
    it.blind = True
    it.run(600)
    assert it.told == [ERROR_RATE]
    fresh = Watch(sustained=30)
    fresh.blind = True
    fresh.run(600)
    assert fresh.told == []
