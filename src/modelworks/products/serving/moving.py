"""Replicas whose room is to be given back, such as those of a drained node: another one serves first. Pure.

The slot of such a replica goes on with its next incarnation, which asks for room of its own, while the run that leaves
counts as one of an older revision does: it serves until it is replaced. Where there is no room it stays: its going
would help nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from modelworks.kernel.run import RunKey, RunObservation
from modelworks.products.kind import ClaimView
from modelworks.products.serving.record import Slot


def leaving(runs: Mapping[str, RunObservation], claims: Mapping[str, ClaimView]) -> frozenset[str]:
    """The keys of the live runs whose room is to be given back."""
    return frozenset(
        key
        for key, run in runs.items()
        if not run.phase.ended and (claim := claims.get(key)) is not None and claim.evict_at is not None
    )


def moved(slot: Slot) -> Slot:
    """The slot of a replica that serves and leaves: its next incarnation begins elsewhere, at once."""
    return replace(slot, incarnation=slot.incarnation + 1, failures=0, retry_at=None, reason="", cause="")


def told(gone: Collection[str], claims: Mapping[str, ClaimView], waits: str | None, failure: str) -> str:
    """Which replicas leave and why, and what their successors wait for: one line for people."""
    names = sorted({RunKey.parse(key).ordinal for key in gone})
    who = f"replica{'s' if len(names) > 1 else ''} {', '.join(map(str, names))}"
    whys = sorted({claim.evict_reason for key in gone if (claim := claims.get(key)) is not None and claim.evict_reason})
    because = f", since {' and '.join(whys)}" if whys else ""
    text = f"{who} move{'' if len(names) > 1 else 's'}{because}"
    if failure:
        return f"{text}, but {failure}"
    return f"{text}; until there is room elsewhere it serves on: {waits}" if waits else text
