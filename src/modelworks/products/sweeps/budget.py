"""The money of a sweep: how many more trials what is left of it pays for. Pure.

A trial is begun only when the rest pays for it and for what those that go on are still to cost, each of them what a
trial cost so far on average. So the money ends between trials rather than within one. While no trial has ended nobody
knows what one costs: those that then prove too dear are ended when all is spent.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from modelworks.kernel.quantities import format_money


@dataclass(frozen=True)
class Purse:
    """``amount`` is the budget; ``ended`` are the costs of the trials that ended, ``going`` of those that go on."""

    amount: float
    ended: Collection[float] = ()
    going: Collection[float] = ()

    @property
    def spent(self) -> float:
        return math.fsum(self.ended) + math.fsum(self.going)

    @property
    def empty(self) -> bool:
        return self.spent >= self.amount

    @property
    def usual(self) -> float | None:
        """What a trial costs; None while none has ended."""
        return math.fsum(self.ended) / len(self.ended) if self.ended else None

    def pays_for(self, wanted: int) -> int:
        """How many of the ``wanted`` further trials may be begun."""
        if self.empty:
            return 0
        usual = self.usual
        if not usual:
            return wanted
        free = self.amount - self.spent - math.fsum(max(0.0, usual - cost) for cost in self.going)
        return max(0, min(wanted, math.floor(free / usual)))

    def told(self) -> str:
        """Why no more trials are begun, for people."""
        if self.empty:
            return f"the sweep's budget of {format_money(self.amount)} is spent"
        return f"what is left of the sweep's budget of {format_money(self.amount)} pays for no further trial"
