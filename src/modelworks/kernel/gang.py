"""Gangs: what waits in the queue as one, and what a pass of admission says to each. Pure.

They are tuples, since a pass over a long queue makes thousands: frozen dataclasses take three times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from modelworks.kernel.decision import Claim
from modelworks.kernel.room import Occupant


class Gang(NamedTuple):
    """Claims that are placed together. ``owner`` is the resource's uid, ``title`` its name for people.

    ``waited`` is in seconds; ``age`` too, and is how long its owner has wanted it, over all its attempts (None: as long
    as it has waited); ``peers`` are the nodes on which the owner has claims already, for spreading.
    """

    name: str
    claims: tuple[Claim, ...]
    waited: float = 0.0
    age: float | None = None
    owner: str = ""
    title: str = ""
    peers: tuple[str, ...] = ()
    workspace: str = ""

    @property
    def priority(self) -> int:
        claims = self.claims
        return claims[0].priority if len(claims) == 1 else max([claim.priority for claim in claims])

    @property
    def lasting(self) -> bool:
        return any(claim.lasting for claim in self.claims)


class Placement(NamedTuple):
    """The gang is admitted: claim key → node. Optional claims that are not in it wait, for ``reason``."""

    gang: Gang
    nodes: Mapping[str, str]
    reason: str = ""


class Refusal(NamedTuple):
    """The gang waits. ``reason`` is one line for people. ``evict`` are to end for it."""

    gang: Gang
    reason: str
    evict: tuple[Occupant, ...] = ()


Result = Placement | Refusal


def rank(gang: Gang) -> tuple[int, float, str]:
    """What the queue is sorted by."""
    return -gang.priority, -(gang.waited if gang.age is None else gang.age), gang.name
