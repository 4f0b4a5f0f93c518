"""Replicas that hold requests and say nothing. Pure.

A health check can be answered by a process whose requests hang, so what counts is bytes on the requests themselves. How
long a silence is usual, the service's own answers have shown.
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
    one of ``times`` that, and of ``least`` seconds."""

    __slots__ = ("_former", "_least", "_next", "_times", "longest")

    def __init__(self, least: float = _LEAST, times: float = _TIMES) -> None:
        self.longest = 0.0
        self._least, self._times = least, times
        self._former: list[float] = []
        self._next = 0.0

    def note(self, seconds: float) -> None:
        """An answer has begun after ``seconds`` of silence."""
        if seconds > self.longest:
            self.longest = seconds

    def sweep(self, now: float) -> None:
        """Called now and then: what is long ago is forgotten, but for the last that was seen."""
        if now < self._next:
            return
        self._next = now + _PERIOD
        if self.longest:
            self._former = [*self._former, self.longest][-_PERIODS:]
            self.longest = 0.0

    def allowed(self, hang_timeout: float | None) -> float | None:
        """How long a replica may say nothing; None when nothing is known of its answers."""
        if hang_timeout is not None:
            return hang_timeout
        longest = max((self.longest, *self._former))
        return max(self._least, self._times * longest) if longest else None


def hanging(slots: Iterable[L], now: float, allowed: float | None) -> list[L]:
    """Who has to be taken out now."""
    if allowed is None:
        return []
    return [
        slot for slot in slots if not slot.hung and (since := slot.silent_since) is not None and now - since > allowed
    ]


def forgiven(slots: Iterable[L], now: float) -> list[L]:
    """Who is hung, has no request left, and may be given one again: else nothing could ever show that it works."""
    return [slot for slot in slots if slot.hung and not slot.in_flight and now - slot.heard > _ANOTHER_CHANCE]


def hung(slots: Iterable[Listened]) -> frozenset[str]:
    """The ids of those that said nothing to their requests, whether these are still there or have given up."""
    return frozenset(slot.replica.id for slot in slots if slot.hung)
