"""Replicas that hold requests and say nothing. Pure.

A health check can be answered by a process whose requests hang, so what counts is bytes on the requests themselves. How
long a silence is usual, the service's own answers have shown; while they have not, what it declares of them bounds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from modelworks.gateway.table import Replica

_LEAST = 5.0
_TIMES = 4.0
_PERIOD = 60.0
_PERIODS = 5
_ANOTHER_CHANCE = 30.0
_MOST_DOUBLINGS = 20
_TICK = 0.001  # of the loop's clock: within one no time passes, and yet it was answered


class Listened(Protocol):
    """A replica as far as what it says goes; the attributes are those of ``Slot``."""

    replica: Replica
    hung: bool
    heard: float
    in_flight: int

    @property
    def silent_since(self) -> float | None: ...


L = TypeVar("L", bound=Listened)


class Silence:
    """``longest``: between the end of a request and the first byte of its answer, in the last minutes. Not usual is
    one of ``times`` that, and of ``least`` seconds. ``fruitless``: how often hung replicas were replaced since anything
    was answered."""

    __slots__ = ("_former", "_least", "_next", "_times", "fruitless", "longest")

    def __init__(self, least: float = _LEAST, times: float = _TIMES) -> None:
        self.longest = 0.0
        self.fruitless = 0
        self._least, self._times = least, times
        self._former: list[float] = []
        self._next = 0.0

    @property
    def usual(self) -> float:
        """The longest of the last minutes, in seconds; 0 when nothing is known of its answers."""
        return max((self.longest, *self._former))

    def recall(self, seconds: float) -> None:
        """So long it was for an earlier process, or is for another one; forgotten as what was seen here is."""
        self._former = [*self._former, seconds][-_PERIODS:]

    def note(self, seconds: float) -> None:
        """An answer has begun after ``seconds`` of silence."""
        if seconds >= self.longest:
            self.longest = max(seconds, _TICK)

    def sweep(self, now: float) -> None:
        """Called now and then: what is long ago is forgotten, but for the last that was seen."""
        if now < self._next:
            return
        self._next = now + _PERIOD
        if self.longest:
            self._former = [*self._former, self.longest][-_PERIODS:]
            self.longest = 0.0

    def allowed(self, hang_timeout: float | None, keepalive: float) -> float:
        """How long a replica may say nothing, in seconds. ``keepalive``: to an answer's first byte, as the service
        declares it; that bounds what is learnt, and is all that holds while nothing is."""
        if hang_timeout is not None:
            return hang_timeout
        bound = max(self._least, keepalive)
        usual = self.usual
        if not usual:
            return bound
        # When one after the other was replaced for nothing, they may not hang, but compute for longer than those did
        # that this was learnt from (another revision, other requests): they need the time to show it.
        doublings = min(max(0, self.fruitless - 1), _MOST_DOUBLINGS)
        return min(max(self._least, self._times * usual) * 2.0**doublings, bound)


def hanging(slots: Iterable[L], now: float, allowed: float) -> list[L]:
    """Who has to be taken out now."""
    return [
        slot for slot in slots if not slot.hung and (since := slot.silent_since) is not None and now - since > allowed
    ]


def forgiven(slots: Iterable[L], now: float) -> list[L]:
    """Who is hung, has no request left, and may be given one again: else nothing could ever show that it works."""
    return [slot for slot in slots if slot.hung and not slot.in_flight and now - slot.heard > _ANOTHER_CHANCE]


def hung(slots: Iterable[Listened]) -> frozenset[str]:
    """The ids of those that said nothing to their requests, whether these are still there or have given up."""
    return frozenset(slot.replica.id for slot in slots if slot.hung)
