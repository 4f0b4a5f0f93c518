"""Whether rows are computed by one call of the model on all CPUs, or by several side by side with one CPU each.

Few rows are soonest done by one call. Its threads wait for each other at every operator, though, and for the slowest
of them: of many rows more are computed in the same time by calls that share nothing. Which is better, and from how many
rows on, is a matter of the model and of the machine: it is measured. Pure: touches no clock and no thread.
"""

from __future__ import annotations

from collections.abc import Hashable

from modelworks.server.estimates import Estimates

# Warm-up measures an idle machine. A call on all CPUs loses more than this as soon as one of them has other work, which
# with requests coming in is always so.
_IN_FAVOUR = 1.1


class Spread:
    """``lanes``: how many calls may run side by side; 1 for a model that has only calls on all CPUs."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._whole = Estimates()  # of seconds a row
        self._beside = Estimates()

    def add(self, key: Hashable, rows: int, seconds: float, *, beside: bool) -> None:
        """What a call took."""
        (self._beside if beside else self._whole).add(key, rows, seconds / rows)

    def pays(self, key: Hashable, together: int, each: int, calls: int) -> bool:
        """Whether ``calls`` calls side by side, of ``each`` rows, do as much in a time as calls of ``together`` rows on
        all CPUs, one after the other. Where nothing is known of the latter it does not; what was never tried is."""
        if calls < 2:
            return False
        whole, beside = self._whole.get(key, together), self._beside.get(key, each)
        if whole is None:
            return False
        return beside is None or beside / calls <= whole * _IN_FAVOUR


def shares(rows: int, items: int, lanes: int) -> tuple[int, int]:
    """Into how many calls ``rows`` of ``items`` requests divide, and how many rows each of them gets."""
    calls = max(min(rows, items, lanes), 1)
    return calls, -(-rows // calls)
