"""The ledger: who occupied what, from when to when, at which price. Open rows run until now.

At most one row of a key is open. Times are the database's unless given.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, text

from modelworks.kernel.decision import OWNER
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
    row = {"key": key, "workspace": ref.workspace, "kind": ref.kind, "name": ref.name, "uid": uid, **terms}
    connection.execute(_END_OTHER, {"key": key, **terms})
    connection.execute(_BEGIN, row | {"label": OWNER})


def end(connection: Connection, key: str, at: float | None = None) -> None:
    """The occupation ends at ``at`` (Unix seconds; None is now), never before it began; it may have ended already."""
    connection.execute(_END, {"key": key, "at": None if at is None else datetime.fromtimestamp(at, UTC)})


def end_all(connection: Connection, uid: str) -> None:
    """Whatever the resource still occupies ends now."""
    connection.execute(_END_ALL, {"uid": uid})


_END = text(
    "UPDATE ledger SET ended_at = greatest(began_at, coalesce(CAST(:at AS timestamptz), now())) "
    "WHERE key = :key AND ended_at IS NULL"
)
_END_ALL = text("UPDATE ledger SET ended_at = greatest(began_at, now()) WHERE uid = :uid AND ended_at IS NULL")
_END_OTHER = text(
    """
UPDATE ledger SET ended_at = greatest(began_at, now())
WHERE key = :key AND ended_at IS NULL AND (item, quantity, unit, price_per_hour)
    <> (:item, CAST(:quantity AS float), :unit, CAST(:price_per_hour AS float))
"""
)
_BEGIN = text(
    """
INSERT INTO ledger (key, workspace, kind, name, uid, item, quantity, unit, price_per_hour, owner)
VALUES (:key, :workspace, :kind, :name, :uid, :item, :quantity, :unit, :price_per_hour,
        (SELECT labels ->> :label FROM resources WHERE uid = :uid))
ON CONFLICT (key) WHERE ended_at IS NULL DO NOTHING
"""
)
