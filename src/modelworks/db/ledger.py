"""The ledger: who occupied what, from when to when, at which price. Open rows run until now.

At most one row of a key is open. Times are the database's unless given.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, update
from sqlalchemy.dialects.postgresql import insert

from modelworks.db.tables import ledger as table
from modelworks.kernel.resource import Ref


def begin(
    connection: Connection,
    ref: Ref,
    uid: str,
    *,
    key: str,
    item: str,
    price_per_hour: float,
    quantity: float = 1.0,
    unit: str = "instance",
) -> None:
    """An occupation begins. An open row of the same terms stays; one of other terms ends, and a new one begins."""
    terms = {"item": item, "quantity": quantity, "unit": unit, "price_per_hour": price_per_hour}
    differs = [table.c[name] != value for name, value in terms.items()]
    changed = differs[0] | differs[1] | differs[2] | differs[3]
    connection.execute(update(table).where(_open(key), changed).values(ended_at=_ended(None)))
    row = {"key": key, "workspace": ref.workspace, "kind": ref.kind, "name": ref.name, "uid": uid, **terms}
    connection.execute(
        insert(table).values(row).on_conflict_do_nothing(index_elements=["key"], index_where=table.c.ended_at.is_(None))
    )


def end(connection: Connection, key: str, at: float | None = None) -> None:
    """The occupation ends at ``at`` (Unix seconds; None is now), never before it began; it may have ended already."""
    connection.execute(update(table).where(_open(key)).values(ended_at=_ended(at)))


def end_all(connection: Connection, uid: str) -> None:
    """Whatever the resource still occupies ends now."""
    connection.execute(
        update(table).where(table.c.uid == uid, table.c.ended_at.is_(None)).values(ended_at=_ended(None))
    )


def _open(key: str) -> Any:
    return (table.c.key == key) & table.c.ended_at.is_(None)


def _ended(at: float | None) -> Any:
    moment = func.now() if at is None else datetime.fromtimestamp(at, UTC)
    return func.greatest(table.c.began_at, moment)
