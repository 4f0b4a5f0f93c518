"""What the gateways say of a service's requests, second by second, and what follows from it. Pure.

The document of a report is in docs/architecture.md, "Traffic reports". Counters only grow while their gateway lives;
whoever merges several gateways, or sees one begin anew, keeps the sums growing (``control/traffic.py``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

# Upper bounds in seconds; the last bucket is of all that took longer.
LATENCY_BUCKETS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5,
    2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip

# Reports come once a second, and only of what changed: silence for longer than this is not knowing.
PATIENCE = 5.0
# The code of refusals (503) for want of a replica that answers.
UNAVAILABLE = "unavailable"
_PERIOD = 1.0


@dataclass(frozen=True)
class RevisionCounts:
    """Counters of one revision. ``errors``: 5xx of the replica, and answers that never came whole; both are in
    ``answered``. ``buckets`` are not cumulative, one longer than LATENCY_BUCKETS."""

    answered: int = 0
    errors: int = 0
    seconds: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(LATENCY_BUCKETS) + 1)
    in_flight: int = 0

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            int(document["answered"]),
            int(document["errors"]),
            float(document["seconds"]),
            tuple(int(count) for count in document["buckets"]),
            int(document["in_flight"]),
        )

    def plus(self, other: RevisionCounts) -> RevisionCounts:
        """The sum of both, also of what is in flight."""
        return RevisionCounts(
            self.answered + other.answered,
            self.errors + other.errors,
            self.seconds + other.seconds,
            tuple(a + b for a, b in zip(self.buckets, other.buckets, strict=True)),
            self.in_flight + other.in_flight,
        )

    def minus(self, earlier: RevisionCounts) -> RevisionCounts:
        """What was counted since ``earlier``; in flight is what it is now."""
        return RevisionCounts(
            self.answered - earlier.answered,
            self.errors - earlier.errors,
            self.seconds - earlier.seconds,
            tuple(a - b for a, b in zip(self.buckets, earlier.buckets, strict=True)),
            self.in_flight,
        )

    @property
    def error_rate(self) -> float | None:
        """Errors of all answers, 0 to 1; None without an answer."""
        return self.errors / self.answered if self.answered else None

    @property
    def mean(self) -> float | None:
        """Mean seconds of an answer; None without one."""
        return self.seconds / self.answered if self.answered else None

    def percentile(self, share: float) -> float | None:
        """Seconds within which ``share`` (0 to 1) of the answers came, linear within a bucket; None without any.

        What took longer than the last bound counts as that bound.
        """
        total = sum(self.buckets)
        if not total:
            return None
        rank, below = share * total, 0
        for index, count in enumerate(self.buckets):
            if count and below + count >= rank:
                if index == len(LATENCY_BUCKETS):
                    break
                lower = LATENCY_BUCKETS[index - 1] if index else 0.0
                return lower + (LATENCY_BUCKETS[index] - lower) * max(rank - below, 0.0) / count
            below += count
        return LATENCY_BUCKETS[-1]


NOTHING = RevisionCounts()


@dataclass(frozen=True)
class Sample:
    """One moment of one service: ``at`` in Unix seconds; ``oldest`` is how long the first in the queue has waited (s).

    ``arrived`` counts all requests with a valid token, ``rejected`` those refused by the gateway. ``hung`` names the
    replicas (by the route's ``id``) that hold requests and say nothing.
    """

    at: float
    in_flight: int = 0
    queued: int = 0
    oldest: float = 0.0
    arrived: int = 0
    rejected: int = 0
    revisions: Mapping[str, RevisionCounts] = field(default_factory=dict)
    hung: frozenset[str] = frozenset()
    refusals: Mapping[str, int] = field(default_factory=dict)  # of those, by the gateway's code

    @property
    def demand(self) -> int:
        """Requests that are being answered or wait."""
        return self.in_flight + self.queued

    @classmethod
    def parse(cls, at: float, document: Mapping[str, Any]) -> Self:
        """One service of a report. Raises KeyError, TypeError and ValueError for what is none."""
        return cls(
            at=at,
            in_flight=int(document["in_flight"]),
            queued=int(document["queued"]),
            oldest=float(document["oldest"]),
            arrived=int(document["arrived"]),
            rejected=sum(int(count) for count in document["rejected"].values()),
            revisions={name: RevisionCounts.parse(found) for name, found in document["revisions"].items()},
            hung=frozenset(document["hung"]),
            refusals={str(code): int(count) for code, count in document["rejected"].items()},
        )


@dataclass(frozen=True)
class Increase:
    """What was counted in ``seconds``, which end with the newest report."""

    seconds: float
    arrived: int = 0
    rejected: int = 0
    revisions: Mapping[str, RevisionCounts] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Requests that arrived, a second."""
        return self.arrived / self.seconds

    @property
    def all(self) -> RevisionCounts:
        """Of all revisions together."""
        total = NOTHING
        for counts in self.revisions.values():
            total = total.plus(counts)
        return total


@dataclass(frozen=True)
class Traffic:
    """A service's samples, oldest first, a few minutes of them; empty when no gateway has said anything yet.

    What a sample says holds until the next one. ``known_since`` to ``known_until`` (Unix seconds) every gateway has
    reported without a gap; None when that is not known, and then silence says nothing about the service.
    ``heard_since`` to ``heard_until`` at least one has, and those that did had no gap: see :meth:`heard`.
    """

    samples: Sequence[Sample] = ()
    known_since: float | None = None
    known_until: float | None = None
    heard_since: float | None = None
    heard_until: float | None = None

    @property
    def last(self) -> Sample | None:
        return self.samples[-1] if self.samples else None

    def since(self, seconds: float, now: float) -> Sequence[Sample]:
        """The samples of the last so many seconds, and the one before them, from which their increase counts."""
        begin = now - seconds
        for index in range(len(self.samples) - 1, -1, -1):
            if self.samples[index].at <= begin:
                return self.samples[index:]
        return self.samples

    def known(self, now: float, seconds: float = 0.0) -> bool:
        """Whether all is known of the last ``seconds`` (but for those of one report)."""
        span = self._span(now)
        return span is not None and span[0] <= now - seconds

    def heard(self) -> Traffic:
        """As if those that report were all: there is as much as this says, and perhaps more. It can ask for replicas;
        only what is known of all can take one away."""
        return replace(self, known_since=self.heard_since, known_until=self.heard_until)

    def _span(self, now: float) -> tuple[float, float] | None:
        """From when to when all is known; None when that ended too long ago."""
        if self.known_since is None or self.known_until is None or now - self.known_until > PATIENCE:
            return None
        return self.known_since, min(self.known_until, now)

    def increase(self, seconds: float, now: float) -> Increase | None:
        """What was counted in the last ``seconds``, or since reports began if that is later; None when nothing is
        known or reports began just now."""
        span = self._span(now)
        if span is None or span[1] - span[0] < _PERIOD / 2:
            return None
        target, end = max(span[1] - seconds, span[0]), span[1]
        if not self.samples:
            return Increase(end - target)
        # A report comes a moment early or late: one a little behind the beginning is taken as the beginning.
        index = max(bisect_right(self.samples, target + _PERIOD / 4, key=lambda sample: sample.at) - 1, 0)
        first, last = self.samples[index], self.samples[-1]
        begin = first.at
        if index + 1 == len(self.samples):
            begin = target
        elif self.samples[index + 1].at - begin > 1.5 * _PERIOD:
            # Nothing was said for a while, so nothing happened before the second that the next report is of.
            begin = min(target, self.samples[index + 1].at - _PERIOD)
        if index == 0 and first.at > target:
            begin = target
        revisions = {name: counts.minus(first.revisions.get(name, NOTHING)) for name, counts in last.revisions.items()}
        return Increase(
            seconds=max(end - begin, _PERIOD / 4),
            arrived=last.arrived - first.arrived,
            rejected=last.rejected - first.rejected,
            revisions=revisions,
            refusals={code: count - first.refusals.get(code, 0) for code, count in last.refusals.items()},
        )

    def demand(self, seconds: float, now: float) -> float | None:
        """The mean over the last ``seconds`` of requests that are answered or wait; None when it is not known."""
        span = self._span(now)
        if span is None:
            return None
        if not self.samples:
            return 0.0
        begin, end, total = max(span[1] - seconds, span[0]), span[1], 0.0
        if end - begin < _PERIOD / 4:
            return float(self.samples[-1].demand)
        until = end
        for sample in reversed(self.samples):
            since = max(sample.at, begin)
            total += sample.demand * max(until - since, 0.0)
            until = min(until, since)
            if sample.at <= begin:
                break
        return total / (end - begin)

    def active_at(self, now: float) -> float | None:
        """When a request was there last, Unix seconds; None when there was none in these samples."""
        for index in range(len(self.samples) - 1, -1, -1):
            sample = self.samples[index]
            if sample.demand:
                return now if index + 1 == len(self.samples) else self.samples[index + 1].at
            if index and sample.arrived > self.samples[index - 1].arrived:
                return sample.at
        return None
