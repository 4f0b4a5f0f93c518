"""Routes: where the gateways find each service's replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, func
from sqlalchemy.dialects.postgresql import insert

from modelworks.db.listen import ROUTES, notify
from modelworks.db.tables import routes as table


def publish(connection: Connection, workspace: str, name: str, uid: str, route: Mapping[str, Any]) -> bool:
    """Store a route and wake the gateways; False when it is stored already, and nobody is woken."""
    statement = insert(table).values(workspace=workspace, name=name, uid=uid, route=dict(route))
    statement = statement.on_conflict_do_update(
        index_elements=["workspace", "name"],
        set_={"uid": uid, "route": statement.excluded.route, "updated_at": func.now()},
        where=(table.c.route != statement.excluded.route) | (table.c.uid != uid),
    )
    # Asked of the row itself: the row count of an upsert is not reported by the driver.
    changed = connection.execute(statement.returning(table.c.uid)).first() is not None
    if changed:
        notify(connection, ROUTES)
    return changed


def withdraw(connection: Connection, workspace: str, name: str, uid: str) -> None:
    """Drop a resource's route; that of a successor with the same name stays."""
    _drop(connection, (table.c.workspace == workspace) & (table.c.name == name) & (table.c.uid == uid))


def withdraw_all(connection: Connection, uid: str) -> None:
    _drop(connection, table.c.uid == uid)


def _drop(connection: Connection, which: Any) -> None:
    if connection.execute(delete(table).where(which)).rowcount:
        notify(connection, ROUTES)
