"""Which revision and which replica take the next request. Pure."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def deck(weights: Mapping[str, int], shuffle: Callable[[list[str]], None]) -> list[str]:
    """Revisions as cards to draw one for each request: each as often as its weight, so that shares are exact over a
    deck; shuffled, so that callers who take turns are not told apart by it."""
    divisor = math.gcd(*weights.values()) or 1
    cards = [name for name, weight in weights.items() for _ in range(weight // divisor)]
    shuffle(cards)
    return cards


def stickiest(weights: Mapping[str, int], key: bytes) -> str:
    """The revision of a header's value: always the same for the same weights, and over all values in proportion.

    When a weight grows, or a revision goes, only those values move that the change takes from others or leaves behind
    (rendezvous hashing with weights).
    """
    return max(weights, key=lambda name: (_score(name, key, weights[name]), name))


def _score(name: str, key: bytes, weight: int) -> float:
    digest = hashlib.blake2b(key, digest_size=7, key=name.encode()[:64]).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**56
    return weight / -math.log(uniform)


def shares(weights: Mapping[str, int], revisions: Iterable[str], aside: str = "") -> dict[str, int]:
    """The weights of the revisions that have replicas. Empty when all take requests alike.

    With weights, a revision without one gets nothing while a weighted one is there, and one whose weight is 0 or that
    is ``aside`` (a mirror) never gets anything.
    """
    present = [name for name in dict.fromkeys(revisions) if name != aside or weights.get(name)]
    weighted = {name: weights[name] for name in present if weights.get(name)}
    if weighted or not any(weights.values()):
        return weighted  # empty: all alike
    return {name: 1 for name in present if name not in weights}
