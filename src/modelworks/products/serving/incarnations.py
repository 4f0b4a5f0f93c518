"""Which run a replica's log is asked of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.run import RunKey, RunPhase

_ORDER = {str(RunPhase.RUNNING): 1, str(RunPhase.PREPARING): 0}


def replica_key(uid: str, status: Mapping[str, Any], ordinal: int, *, previous: bool = False) -> str | None:
    """The live run of that ordinal, of the newest revision first; else the one that ended last.

    ``previous``: the one that ended last in any case, of the same revision. None where there is none.
    """
    live = [found for found in status.get("replicas", ()) if found["ordinal"] == ordinal]
    if live:
        best = max(
            live,
            key=lambda found: (
                found["revision"] == status.get("revision"),
                _ORDER.get(found["phase"], 0),
                found["incarnation"],
            ),
        )
        return _before(uid, best["revision"], ordinal, best["incarnation"]) if previous else str(best["key"])
    for slot in status.get("slots", ()):
        if slot["ordinal"] == ordinal:
            incarnation = slot.get("incarnation", 0)
            if previous:
                return _before(uid, status["revision"], ordinal, incarnation)
            return str(RunKey(uid, status["revision"], ordinal, max(incarnation - 1, 0)))
    return None


def _before(uid: str, revision: str, ordinal: int, incarnation: int) -> str | None:
    return str(RunKey(uid, revision, ordinal, incarnation - 1)) if incarnation else None
