"""The way to one replica."""

from __future__ import annotations

from dataclasses import dataclass, field

from modelworks.gateway.metrics import RevisionMetrics
from modelworks.gateway.pool import Pool


@dataclass(frozen=True, slots=True)
class Door:
    """A replica's connections, and the response headers that name it: up to the queue's time, and with a time of 0.

    ``counts`` are its revision's.
    """

    pool: Pool
    lines: bytes
    unqueued: bytes
    counts: RevisionMetrics = field(default_factory=RevisionMetrics)
