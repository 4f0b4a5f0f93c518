"""Where a service stops to keep up, and what follows for its settings. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from modelworks.sdk.load.outcome import Outcome

SUCCESS = 0.99  # of what is offered
SLOWER = 5.0  # p95 as a multiple of the lightest load's …
NEVER_SLOW = 0.05  # … unless it is below so many seconds
HEADROOM = 0.7  # of what a replica sustains: what it should be given, since load comes unevenly
BURST = 2.0  # seconds of double load that the queue has to hold


@dataclass(frozen=True)
class Knee:
    """``rate`` is the highest that was sustained with all lower ones, or None; ``reached``: a higher one failed."""

    rate: float | None
    capacity: float  # good answers a second, the most that were seen
    reached: bool
    why: str = ""


@dataclass(frozen=True)
class Advice:
    """Settings that fit what was measured. ``qps`` and ``concurrency`` are of one replica."""

    concurrency: int
    queue_size: int
    qps: float
    replicas: dict[str, int]  # by requests a second

    def document(self) -> dict[str, Any]:
        return asdict(self)


def strained(outcome: Outcome, lightest: Outcome | None, target: float | None = None) -> str:
    """Why a step was not sustained, "" when it was. ``target`` is the wanted p99 in seconds."""
    if outcome.sent and outcome.success < SUCCESS:
        refused, failed = outcome.limited / outcome.sent, outcome.errors / outcome.sent
        return f"{refused:.0%} refused (429), {failed:.0%} failed" if refused else f"{failed:.1%} failed"
    p99, p95 = outcome.latency(0.99), outcome.latency(0.95)
    if target is not None:
        return f"p99 {_ms(p99)}, above {_ms(target)}" if p99 is not None and p99 > target else ""
    base = lightest.latency(0.95) if lightest is not None else None
    if base is not None and p95 is not None and p95 > max(SLOWER * base, NEVER_SLOW):
        return f"p95 {_ms(p95)}, {p95 / base:.0f} times that of {lightest.rate:g}/s" if lightest else ""
    return ""


def find(outcomes: Sequence[Outcome], target: float | None = None) -> Knee:
    """The knee of steps in the order of their rates."""
    ordered = sorted((one for one in outcomes if one.sent), key=lambda one: one.rate)
    capacity = max((one.goodput for one in ordered), default=0.0)
    held: float | None = None
    for one in ordered:
        why = strained(one, ordered[0], target)
        if why:
            return Knee(held, capacity, True, f"at {one.rate:g}/s: {why}")
        held = one.rate
    return Knee(held, capacity, False)


def advise(outcomes: Sequence[Outcome], knee: Knee, replicas: int, expected: float | None = None) -> Advice | None:
    """Of a service with ``replicas`` ready ones; None when nothing was sustained.

    Concurrency by Little's law at the knee: what a replica has in hand is its rate × the time it needs for one.
    """
    if knee.rate is None or replicas < 1:
        return None
    at = next(one for one in outcomes if one.rate == knee.rate)
    service = at.mean_service or 0.0
    each = knee.rate / replicas
    qps = each * HEADROOM
    wanted = [expected] if expected else [knee.rate, 2 * knee.rate, 5 * knee.rate]
    return Advice(
        concurrency=max(1, math.ceil(each * service * 1.2)),
        queue_size=max(16, math.ceil(knee.rate * BURST)),
        qps=round(qps, 2),
        replicas={f"{rate:g}": max(1, math.ceil(rate / qps)) for rate in wanted},
    )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2f} ms"
