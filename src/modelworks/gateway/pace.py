"""How fast a queue moves, as seen lately: what tells at once who would wait in vain. Pure.

A wrong refusal is worse than a late one, so the fastest of the last windows counts, an estimate from the time that
requests take is trusted less, and while little has been seen there is none.
"""

from __future__ import annotations

from collections import deque

FALL, _RISE = 0.1, 0.02  # weights of a sample in the mean: quickly down, slowly up
_LEAP = 4.0  # a sample counts as at most so many times the mean: a stall is not the new normal
NEAR = 0.95  # a sample that is hardly below the mean is no fall: requests that all take the same would fade no tail
_FADE = 0.01  # of the tail, with each sample that is no fall
_YOUNG = 5
_WINDOWS = 4
_SHORTEST = 0.5
_MARGIN = 0.8  # requests take less time while few of them run at once
_FEWEST = 4


class Pace:
    """``mean`` is how long a slot was held lately, in seconds, and ``tail`` how long in nearly every case: what must be
    left of a request's time for its answer to come within it. Windows count what left while others waited."""

    __slots__ = ("_count", "_since", "_windows", "mean", "samples", "tail")

    def __init__(self) -> None:
        self.mean = self.tail = 0.0
        self.samples = 0
        self._windows: deque[float] = deque(maxlen=_WINDOWS)  # requests a second and slot
        self._since: float | None = None
        self._count = 0

    def held(self, seconds: float) -> None:
        """A request has left its slot."""
        mean = self.mean
        if self.samples < _YOUNG:
            self.samples += 1
            self.mean = mean + (seconds - mean) / self.samples
            self.tail = max(self.tail, self.mean)
        elif seconds < NEAR * mean:
            self.mean = mean + FALL * (seconds - mean)
        else:
            counted = min(seconds, _LEAP * mean + 0.01)
            self.mean = mean + _RISE * (counted - mean)
            self.tail = max(counted, self.tail + _FADE * (self.mean - self.tail))

    def left(self, now: float, capacity: int) -> None:
        """A request has left while others waited, ``capacity`` slots being there."""
        if self._since is None:
            self._since, self._count = now, 0
            return
        self._count += 1
        seconds = now - self._since
        if self._count >= max(_FEWEST, capacity) and seconds >= _SHORTEST:
            self._windows.append(self._count / seconds / max(1, capacity))
            self._since, self._count = now, 0

    def rest(self) -> None:
        """Nobody waits any more."""
        self._since = None

    def rate(self, capacity: int) -> float | None:
        """Requests a second that ``capacity`` slots get through; None while it cannot be told."""
        if len(self._windows) >= 2:
            return max(self._windows) * capacity or None
        if self.samples < _YOUNG or self.mean <= 0:
            return None
        return capacity / self.mean / _MARGIN
