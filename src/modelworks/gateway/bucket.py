"""So many requests a second, and no more: a token bucket. Pure."""

from __future__ import annotations


class Bucket:
    """``rate`` tokens a second, and as many (at least one) at once after a rest."""

    __slots__ = ("_at", "_tokens", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = max(1.0, rate)
        self._at = now

    def take(self, now: float) -> float:
        """0 when a token was there; else in how many seconds one will be."""
        self._tokens = min(max(1.0, self.rate), self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self.rate
