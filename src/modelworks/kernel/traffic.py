"""What the gateways say of a service's requests, second by second, and what follows from it. Pure.

The document of a report is in docs/architecture.md, "Traffic reports". Counters only grow while their gateway lives;
whoever merges several gateways, or sees one begin anew, keeps the sums growing (``control/traffic.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

# Upper bounds in seconds; the last bucket is of all that took longer.
LATENCY_BUCKETS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5,
    2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip


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
        )


@dataclass(frozen=True)
class Traffic:
    """A service's samples, oldest first, a few minutes of them; empty when no gateway has said anything yet."""

    samples: Sequence[Sample] = ()

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
