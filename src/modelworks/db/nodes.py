"""Nodes: what their agents last said of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from modelworks.db.listen import CLAIMS, notify
from modelworks.db.tables import nodes as table
from modelworks.kernel.run import NodeObservation


@dataclass(frozen=True)
class Node:
    """``seen_at`` is when the node last answered; a cordoned one keeps its runs and gets no new ones."""

    observation: NodeObservation
    seen_at: datetime
    cordoned: bool


def put(connection: Connection, observation: NodeObservation) -> None:
    """Note that a node answered, and what it said."""
    data = observation.model_dump(mode="json") | {"capacity": observation.capacity.dump()}
    known = connection.scalar(select(table.c.observation).where(table.c.name == observation.name))
    row = {"observation": data, "seen_at": func.now()}
    statement = insert(table).values(name=observation.name, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))
    if known != data:
        notify(connection, CLAIMS)  # there may be room now


def everything(connection: Connection) -> list[Node]:
    rows = connection.execute(select(table).order_by(table.c.name))
    return [Node(NodeObservation.parse(row.observation), row.seen_at, row.cordoned) for row in rows]
