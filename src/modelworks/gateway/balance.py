"""Which replica takes the next request. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Load(Protocol):
    """What a choice needs to know of a replica. ``free`` says whether it may take one more at all."""

    in_flight: int

    @property
    def free(self) -> bool: ...


L = TypeVar("L", bound=Load)


def least_loaded(replicas: Sequence[L], turn: int) -> L | None:
    """The free replica with the fewest requests; ties go round with ``turn``. None when none is free."""
    best: L | None = None
    count = len(replicas)
    for i in range(count):
        replica = replicas[(turn + i) % count]
        if replica.free and (best is None or replica.in_flight < best.in_flight):
            if replica.in_flight == 0:
                return replica
            best = replica
    return best
