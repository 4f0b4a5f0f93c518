"""How much of a request has come in that is not its body: bounded, since a service's own limit is of bodies only."""

from __future__ import annotations

from modelworks.gateway.limits import Limits
from modelworks.gateway.problems import HEAD_TOO_LARGE, TARGET_TOO_LONG, Problem


class Intake:
    """Counts read by read. ``progress``: a part of the body was in the read that is being taken in."""

    __slots__ = ("_bodiless", "_head", "_limits", "progress")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bodiless = 0
        self._head = -1
        self.progress = False

    def head_begins(self) -> None:
        self._head = -1

    def head(self, size: int, target: int) -> tuple[bool, Problem | None]:
        """The head, with ``target`` bytes of it known, is not complete after a read of ``size`` bytes: whether that
        was the first one, and what is wrong."""
        first = self._head < 0
        # The first read may hold the end of the request before, too: it is bounded by the loop, and not counted.
        self._head = 0 if first else self._head + size
        if target > self._limits.target:
            return first, TARGET_TOO_LONG
        return first, HEAD_TOO_LARGE if self._head > self._limits.head else None

    def body(self, size: int, chunked: bool) -> Problem | None:
        """The body is not complete yet. Chunk extensions and trailers are no body, and are bounded."""
        self._bodiless = 0 if self.progress else self._bodiless + size
        return HEAD_TOO_LARGE if chunked and self._bodiless > self._limits.head else None
