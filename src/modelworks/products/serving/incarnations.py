"""Which run a replica's log is asked of. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from modelworks.kernel.run import RunKey, RunPhase

_ORDER = {str(RunPhase.RUNNING): 1, str(RunPhase.PREPARING): 0}


def replica_key(uid: str, status: Mapping[str, Any], ordinal: int, *, previous: bool = False) -> str | None:
    """The live run of that ordinal, of the newest revision first; else the one that ended last.

    ``previous``: the one that ended last in any case, of the same revision; while a replica moves to another node, the
    one that it moves from has not ended. None where there is none.
    """
    live = [found for found in status.get("replicas", ()) if found["ordinal"] == ordinal]
    slots = {slot["ordinal"]: slot.get("incarnation", 0) for slot in status.get("slots", ())}
    if live:
        best = max(
            live,
            key=lambda found: (
                found["revision"] == status.get("revision"),
                _ORDER.get(found["phase"], 0),
                found["incarnation"],
            ),
        )
        if not previous:
            return str(best["key"])
        revision = best["revision"]
        alive = {found["incarnation"] for found in live if found["revision"] == revision}
        # The slot's own has ended or not begun where it does not live: it may have been one after the other meanwhile.
        newest = max(*alive, slots.get(ordinal, 0) if revision == status.get("revision") else 0)
        return _ended_last(uid, revision, ordinal, newest, alive)
    if ordinal not in slots:
        return None
    if previous:
        return _ended_last(uid, status["revision"], ordinal, slots[ordinal], ())
    return str(RunKey(uid, status["revision"], ordinal, max(slots[ordinal] - 1, 0)))


def _ended_last(uid: str, revision: str, ordinal: int, newest: int, alive: Collection[int]) -> str | None:
    """The last before ``newest`` that does not live."""
    for incarnation in range(newest - 1, -1, -1):
        if incarnation not in alive:
            return str(RunKey(uid, revision, ordinal, incarnation))
    return None
