"""Which replica takes the next request. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Load(Protocol):
    """What a choice needs to know of a replica: free is who is ``open`` and has less than its limit."""

    in_flight: int
    limit: int
    open: bool


L = TypeVar("L", bound=Load)


def least_loaded(replicas: Sequence[L], turn: int) -> L | None:
    """The free replica with the fewest requests; ties go round with ``turn``. None when none is free."""
    best: L | None = None
    fewest = sys.maxsize
    count = len(replicas)
    for i in range(count):
        replica = replicas[(turn + i) % count]
        load = replica.in_flight
        if load < fewest and load < replica.limit and replica.open:
            if load == 0:
                return replica
            best, fewest = replica, load
    return best
