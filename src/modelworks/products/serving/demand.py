"""How much work a service has, in each of its metrics, and how many replicas that asks for. Pure.

Totals are of all replicas together: ``ceil(total ÷ target)`` is ``ceil(replicas × current ÷ target)``. A load that
comes by chance has peaks, and a short look at it more of them: a peak counts when requests that come by chance at the
load the replicas are for would hardly ever show it. So ten times the load is seen in a second, a quarter more in a
minute, and a steady one never.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelworks.kernel.run import Resources, RunObservation
from modelworks.kernel.traffic import Traffic
from modelworks.products.serving.scaling_spec import Metrics

# Seconds looked at, and how many standard deviations above what is expected are no chance.
_LOOKS = ((1.0, 5.0), (3.0, 5.0), (6.0, 4.5), (15.0, 4.0), (60.0, 3.5), (300.0, 3.0))
_LATELY = (3.0, 6.0)
STEADY = 15.0  # seconds that the present value is the mean of
# Fewer than so many requests are no peak: deviations mean little where next to nothing is expected.
_FEWEST = 10.0
# A backlog that grows while ordered replicas start asks for no more of them than this times what its arrivals need.
_BACKLOG = 1.5
# What a replica uses to start is no load: its use counts so many seconds after its process began.
_STARTING = 10.0


@dataclass(frozen=True)
class Reading:
    """One metric now. ``total`` is None while it is not known; ``peak`` is a larger one that is no chance, and may be
    of those gateways alone that report.

    ``lately`` is the most of the short looks: a mean that has not caught up with a step must not take replicas away.
    """

    metric: str
    target: float
    total: float | None
    peak: float | None = None
    lately: float = 0.0

    def wanted(self, current: int, tolerance: float) -> int | None:
        """How many replicas it asks for; ``current`` while it is within the tolerance, None while it is unknown."""
        if self.peak is not None:
            return max(replicas_for(self.peak, self.target), current)
        if self.total is None:
            return None
        most = max(self.total, self.lately)
        if most >= current * self.target * (1 - tolerance):
            return current
        return min(replicas_for(most, self.target), current)

    def document(self, current: int) -> dict[str, Any]:
        """As it is stored with a decision and shown: totals, and the value for each replica."""
        total = self.total if self.peak is None else self.peak
        return {
            "metric": self.metric,
            "target": self.target,
            "total": None if total is None else round(total, 3),
            "current": None if total is None or not current else round(total / current, 3),
        }


def replicas_for(total: float, target: float) -> int:
    """``ceil(total ÷ target)``, forgiving what floating point adds to a whole number."""
    return math.ceil(total / target - 1e-9)


def readings(
    metrics: Metrics,
    traffic: Traffic,
    ready: Sequence[RunObservation],
    resources: Resources,
    current: int,
    now: float,
    *,
    tolerance: float,
    starting: bool,
) -> tuple[Reading, ...]:
    """Of every metric with a target. ``ready`` are the runs that serve; ``starting``: others were ordered."""
    found, known = [], traffic.known(now)
    if not known:
        traffic = traffic.heard()
    if metrics.qps is not None:
        rates = {
            seconds: None if (increase := traffic.increase(seconds, now)) is None else increase.rate
            for seconds, _ in _LOOKS
        }
        found.append(_counted("qps", metrics.qps, rates, current, tolerance, known=known))
    if metrics.concurrency is not None:
        means = {seconds: traffic.demand(seconds, now) for seconds, _ in _LOOKS}
        if starting:
            means = _without_backlog(means, traffic, now)
        found.append(_counted("concurrency", metrics.concurrency, means, current, tolerance, known=known))
    if metrics.cpu is not None:
        found.append(_used("cpu", metrics.cpu, _shares(ready, "cpu", resources.cpu / 1000, now), current, tolerance))
    if metrics.gpu is not None:
        found.append(_used("gpu", metrics.gpu, _shares(ready, "gpu", 1.0, now), current, tolerance))
    return tuple(found)


def _counted(
    metric: str, target: float, values: Mapping[float, float | None], current: int, tolerance: float, *, known: bool
) -> Reading:
    """A metric that counts requests, from its means over each look. When not all is ``known``, they are the least that
    it may be: more than enough of them is too much, and few of them say nothing."""
    expected, steady = target * current * (1 + tolerance), values[STEADY]
    peaks = [
        # A long look also sees what has ended since.
        value if seconds <= STEADY or steady is None else min(value, steady)
        for seconds, deviations in _LOOKS
        if (value := values[seconds]) is not None
        and value * seconds >= _FEWEST
        and value > expected + deviations * math.sqrt(expected / seconds)
        and (seconds <= STEADY or (steady is not None and steady > expected))
    ]
    if not known:
        return Reading(metric, target, None, max(peaks, default=None))
    lately = max((value for seconds in _LATELY if (value := values[seconds]) is not None), default=0.0)
    return Reading(metric, target, steady, max(peaks, default=None), lately)


def _without_backlog(means: dict[float, float | None], traffic: Traffic, now: float) -> dict[float, float | None]:
    """What the arrivals need at once, by how long an answer takes: what waits for those that start is no load."""
    lately = traffic.increase(60.0, now)
    needed = None if lately is None or lately.all.mean is None else lately.rate * lately.all.mean * _BACKLOG
    if needed is None:
        return dict.fromkeys(means, None)
    return {seconds: None if mean is None else min(mean, needed) for seconds, mean in means.items()}


def _shares(ready: Sequence[RunObservation], resource: str, whole: float, now: float) -> list[float] | None:
    """Each ready replica's use, 1 for all it has; None while one was not measured since it started."""
    fresh = any(run.started_at is not None and now - run.started_at < _STARTING for run in ready)
    if not ready or fresh or any(resource not in run.usage for run in ready):
        return None
    return [run.usage[resource] / whole for run in ready]


def _used(metric: str, target: float, shares: list[float] | None, current: int, tolerance: float) -> Reading:
    """A metric of the replicas' use of the machine. What was ordered and does not run yet uses nothing."""
    if shares is None:
        return Reading(metric, target, None)
    total = sum(shares)
    return Reading(metric, target, total, total if total > target * current * (1 + tolerance) else None)
