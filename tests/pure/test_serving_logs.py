"""Which run of a replica a log is asked of."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelworks.kernel.run import RunKey
from modelworks.products.serving.incarnations import replica_key

UID = "00000000-0000-4000-8000-000000000000"


def running(ordinal: int, incarnation: int, revision: str = "r2") -> dict[str, Any]:
    key = str(RunKey(UID, revision, ordinal, incarnation))
    return {"key": key, "ordinal": ordinal, "incarnation": incarnation, "revision": revision, "phase": "Running"}


def status(incarnation: int, *live: dict[str, Any]) -> dict[str, Any]:
    return {"revision": "r2", "slots": [{"ordinal": 0, "incarnation": incarnation}], "replicas": list(live)}


@given(st.integers(min_value=1, max_value=100))
def test_the_run_before_is_asked_for_whether_or_not_another_lives(incarnation: int) -> None:
    ended = str(RunKey(UID, "r2", 0, incarnation - 1))
    waits, lives = status(incarnation), status(incarnation, running(0, incarnation))
    assert replica_key(UID, waits, 0) == replica_key(UID, waits, 0, previous=True) == ended
    assert replica_key(UID, lives, 0) == str(RunKey(UID, "r2", 0, incarnation))
    assert replica_key(UID, lives, 0, previous=True) == ended


@given(tried=st.integers(min_value=1, max_value=20), began=st.integers(min_value=0, max_value=20), waits=st.booleans())
def test_while_a_replica_moves_what_it_moves_from_has_not_ended(tried: int, began: int, waits: bool) -> None:
    """``tried`` runs elsewhere, of which the last one lives unless it ``waits`` to begin."""
    serves, newest = running(0, began), began + tried
    moves = status(newest, serves, *(() if waits else (running(0, newest),)))
    ended = newest - 1 if tried > 1 else began - 1
    expected = str(RunKey(UID, "r2", 0, ended)) if ended >= 0 else None
    assert replica_key(UID, moves, 0, previous=True) == expected
    assert replica_key(UID, moves, 0) == str(RunKey(UID, "r2", 0, began if waits else newest))


def test_a_first_run_has_none_before_it() -> None:
    assert replica_key(UID, status(0, running(0, 0)), 0, previous=True) is None
    assert replica_key(UID, status(0), 0, previous=True) is None
    assert replica_key(UID, status(0), 1) is None


def test_of_two_revisions_the_newest_is_asked() -> None:
    both = status(1, running(0, 4, "r1"), running(0, 1))
    assert replica_key(UID, both, 0, previous=True) == str(RunKey(UID, "r2", 0, 0))
