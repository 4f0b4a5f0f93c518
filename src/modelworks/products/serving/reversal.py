"""Whether a new revision is worse than the old one by the stated margins. Pure.

Few answers say little: a difference counts when the lower end of its confidence interval (Newcombe's, of two Wilson
intervals) is beyond the margin. It is asked every second, so the interval is a wide one. The interval takes answers for
independent; slow ones are not, since whatever holds up a machine for a moment holds up all that are there: so they must
have come in several different seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from modelworks.kernel.quantities import format_duration
from modelworks.kernel.traffic import LATENCY_BUCKETS, RevisionCounts, Traffic
from modelworks.products.serving.traffic_spec import Reversal

# Standard deviations: one-sided, one look in 4,000 errs where there is no difference and no margin.
_Z = 3.5
_TAIL = 0.01  # p99 is what this share of the answers takes longer than
_SECONDS = 5  # in so many different ones slow answers came, if the revision is why


@dataclass(frozen=True)
class Verdict:
    """``reason`` is empty while nothing speaks against the new revision; ``numbers`` are what it was judged by."""

    reason: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def worse(self) -> bool:
        return bool(self.reason)


def judge(traffic: Traffic, old: str, new: str, rule: Reversal, now: float, since: float) -> Verdict:
    """Of the answers of both in the same time: the last ``rule.window`` seconds, and not before ``since`` (Unix s)."""
    if not rule.enabled:
        return Verdict()
    span = min(rule.window, now - since)
    before, after = _increase(traffic, old, span, now), _increase(traffic, new, span, now)
    if after.answered < rule.requests or not before.answered:
        return Verdict()
    numbers: dict[str, Any] = {
        "window": round(span, 1),
        "answered": after.answered,
        "errors": after.errors,
        "p99": _p99(after),
        "old_answered": before.answered,
        "old_errors": before.errors,
        "old_p99": _p99(before),
    }
    if _lower_difference(after.errors, after.answered, before.errors, before.answered) > rule.error_rate:
        reason = (
            f"{after.errors} of {after.answered} answers failed, against {before.errors} of {before.answered}"
            f" of revision {old}"
        )
        return Verdict(reason, numbers)
    limit = max(_p99(before) * rule.latency, rule.min_latency)
    slow, old_slow = _longer(after, limit), _longer(before, limit)
    lasts = _slow_seconds(traffic, new, span, now, limit) >= min(_SECONDS, rule.window // 2)
    if lasts and _lower_difference(slow, _timed(after), old_slow, _timed(before)) > _TAIL:
        reason = (
            f"p99 {_text(_p99(after))}, against {_text(_p99(before))} of revision {old}:"
            f" {slow} of {after.answered} answers took longer than {_text(limit)}"
        )
        return Verdict(reason, numbers)
    return Verdict()


def _increase(traffic: Traffic, revision: str, span: float, now: float) -> RevisionCounts:
    """What one revision answered in the last ``span`` seconds."""
    samples = traffic.since(span, now)
    if len(samples) < 2:
        return RevisionCounts()
    nothing = RevisionCounts()
    first = samples[0].revisions.get(revision, nothing)
    last = next((s.revisions[revision] for s in reversed(samples) if revision in s.revisions), nothing)
    buckets = tuple(max(b - a, 0) for a, b in zip(first.buckets, last.buckets, strict=True))
    answered = max(last.answered - first.answered, 0)
    errors = min(max(last.errors - first.errors, 0), answered)
    return RevisionCounts(answered, errors, max(last.seconds - first.seconds, 0.0), buckets)


def _timed(counts: RevisionCounts) -> int:
    return sum(counts.buckets)


def _p99(counts: RevisionCounts) -> float:
    """The upper bound of the bucket in which it lies, in seconds; twice the last bound when beyond all of them."""
    rank, seen = math.ceil((1 - _TAIL) * _timed(counts)), 0
    for bound, count in zip(LATENCY_BUCKETS, counts.buckets, strict=False):
        seen += count
        if seen >= rank:
            return bound
    return 2 * LATENCY_BUCKETS[-1]


def _longer(counts: RevisionCounts, limit: float) -> int:
    """Answers that surely took longer: those in buckets that begin at the limit or later."""
    return sum(count for begin, count in zip((0.0, *LATENCY_BUCKETS), counts.buckets, strict=True) if begin >= limit)


def _slow_seconds(traffic: Traffic, revision: str, span: float, now: float, limit: float) -> int:
    """In how many different seconds answers came that surely took longer."""
    nothing = RevisionCounts()
    counts = [(sample.at, sample.revisions.get(revision, nothing)) for sample in traffic.since(span, now)]
    return len({int(at) for (_, a), (at, b) in pairwise(counts) if _longer(b, limit) > _longer(a, limit)})


def _lower_difference(new: int, of_new: int, old: int, of_old: int) -> float:
    """The lower end of the confidence interval of the difference of two shares."""
    if not of_new or not of_old:
        return 0.0
    share, old_share = new / of_new, old / of_old
    low, (_, old_high) = _wilson(new, of_new)[0], _wilson(old, of_old)
    return share - old_share - math.hypot(share - low, old_high - old_share)


def _wilson(count: int, total: int) -> tuple[float, float]:
    share, square = count / total, _Z * _Z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _text(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 1 else f"{seconds * 1000:g} ms"
