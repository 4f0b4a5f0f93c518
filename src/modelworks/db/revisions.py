"""The revisions of services: what each was made of, numbered in the order they were first seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from modelworks.db.tables import service_revisions as table

# So many are kept of a service; the oldest go first.
MOST = 200


@dataclass(frozen=True)
class StoredRevision:
    """One row: ``spec`` and ``resolved`` are as apply left them."""

    revision: str
    number: int
    spec: dict[str, Any]
    resolved: dict[str, Any]
    created_at: datetime


def record(
    connection: Connection, uid: str, revision: str, spec: Mapping[str, Any], resolved: Mapping[str, Any]
) -> None:
    """The revision is stored, with the next number; one that is there stays. The caller has the row's lease."""
    highest = connection.scalar(select(func.max(table.c.number)).where(table.c.uid == uid)) or 0
    row = {"uid": uid, "revision": revision, "number": highest + 1, "spec": dict(spec), "resolved": dict(resolved)}
    made = connection.execute(insert(table).values(row).on_conflict_do_nothing().returning(table.c.number)).first()
    if made is not None and highest >= MOST:
        connection.execute(delete(table).where(table.c.uid == uid, table.c.number <= highest + 1 - MOST))


def numbers(connection: Connection, uids: Sequence[str]) -> dict[str, dict[str, int]]:
    """uid → revision → number."""
    found: dict[str, dict[str, int]] = {}
    query = select(table.c.uid, table.c.revision, table.c.number).where(table.c.uid.in_(uids))
    for row in connection.execute(query):
        found.setdefault(row.uid, {})[row.revision] = row.number
    return found


def newest_first(connection: Connection, uid: str) -> list[StoredRevision]:
    rows = connection.execute(select(table).where(table.c.uid == uid).order_by(table.c.number.desc()))
    return [_stored(row) for row in rows]


def find(connection: Connection, uid: str, which: str) -> StoredRevision | None:
    """By its digest, or by its number in decimal."""
    condition = table.c.revision == which
    if which.isdecimal() and len(which) < 9:
        condition |= table.c.number == int(which)
    rows = [_stored(row) for row in connection.execute(select(table).where(table.c.uid == uid, condition))]
    # A digest may consist of digits alone: then it is the number that was meant, if there is one.
    return min(rows, key=lambda row: row.revision == which, default=None)


def _stored(row: Row[Any]) -> StoredRevision:
    return StoredRevision(row.revision, row.number, row.spec, row.resolved, row.created_at)
