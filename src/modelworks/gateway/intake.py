"""How much of a request has come in that is not its body: bounded, since a service's own limit is of bodies only."""

from __future__ import annotations

from modelworks.gateway.heads import Headers
from modelworks.gateway.limits import Limits
from modelworks.gateway.problems import HEAD_TOO_LARGE, TARGET_TOO_LONG, Problem


class Intake:
    """Counts read by read. ``progress``: a part of the body was in the read that is being taken in."""

    __slots__ = ("_begun", "_bodiless", "_fresh", "_head", "_limits", "_size", "progress")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bodiless = 0
        self._head = -1
        self._size = self._begun = 0
        self._fresh = True
        self.progress = False

    def read(self, size: int, fresh: bool) -> None:
        """A read of ``size`` bytes is taken in; ``fresh``: what came before it was whole messages."""
        self._size, self._begun, self._fresh = size, 0, fresh
        self.progress = False

    def head_begins(self) -> None:
        self._head = -1
        self._begun += 1

    def head_ends(self, target: bytes, headers: Headers) -> Problem | None:
        """The head is complete. It was the last one to begin in this read, or began in an earlier one."""
        if self._begun and self._size <= self._limits.head:
            return None  # mostly: then nothing need be added up
        size = len(target) + sum(len(name) + len(value) + 4 for name, value in headers)
        return HEAD_TOO_LARGE if size > self._limits.head else None

    def head(self, size: int, target: int) -> tuple[bool, Problem | None]:
        """The head, with ``target`` bytes of it known, is not complete after a read of ``size`` bytes: whether that
        was the first one, and what is wrong."""
        first = self._head < 0
        if first:
            # The read may hold other requests before it, or the end of one: then it is bounded by the loop alone.
            self._head = size if self._fresh and self._begun == 1 else 0
        else:
            self._head += size
        if target > self._limits.target:
            return first, TARGET_TOO_LONG
        return first, HEAD_TOO_LARGE if self._head > self._limits.head else None

    def body(self, size: int, chunked: bool) -> Problem | None:
        """The body is not complete yet. Chunk extensions and trailers are no body, and are bounded."""
        self._bodiless = 0 if self.progress else self._bodiless + size
        return HEAD_TOO_LARGE if chunked and self._bodiless > self._limits.head else None
