"""Nodes: what their agents last said of themselves, and what an administrator wants of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from modelworks.db.listen import CLAIMS, notify
from modelworks.db.tables import claims
from modelworks.db.tables import nodes as table
from modelworks.kernel.run import NodeObservation


@dataclass(frozen=True)
class Node:
    """``seen_at`` is when the node last answered; a cordoned one keeps its runs and gets no new ones.

    With ``drain_by``, what can be moved leaves it until then, for ``drain_reason``. Since ``away_at`` it is silent.
    """

    observation: NodeObservation
    seen_at: datetime
    cordoned: bool
    drain_by: datetime | None = None
    drain_reason: str = ""
    away_at: datetime | None = None


_NOTICE = "notice"  # what the reason of a drain begins with that a machine's own notice made


def put(connection: Connection, observation: NodeObservation) -> None:
    """Note that a node answered, and what it said. A new notice of its machine's owner drains it until then."""
    data = observation.model_dump(mode="json") | {"capacity": observation.capacity.dump()}
    row = connection.execute(select(table).where(table.c.name == observation.name)).one_or_none()
    values: dict[str, Any] = {"observation": data, "seen_at": func.now(), "away_at": None}
    values |= _noticed(row.observation if row else {}, observation, row)
    statement = insert(table).values(name=observation.name, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))
    if row is None or row.observation != data or row.away_at is not None:
        notify(connection, CLAIMS)  # there may be room now


def _noticed(known: Mapping[str, Any], observation: NodeObservation, row: Row[Any] | None) -> dict[str, Any]:
    """What a notice changes, once: who takes the drain back means it, though the machine says so still."""
    if observation.notice_at == known.get("notice_at"):
        return {}
    if observation.notice_at is None:  # another machine of that name, or the notice was taken back
        ours = row is not None and row.drain_reason.startswith(_NOTICE)
        return {"cordoned": False, "drain_by": None, "drain_reason": ""} if ours else {}
    by = datetime.fromtimestamp(observation.notice_at, UTC)
    if row is not None and row.drain_by is not None and row.drain_by <= by:
        return {"cordoned": True}  # somebody wants it empty sooner
    reason = f"{_NOTICE}: {observation.notice}" if observation.notice else f"{_NOTICE} of the machine's owner"
    return {"cordoned": True, "drain_by": by, "drain_reason": reason}


def everything(connection: Connection) -> list[Node]:
    return [_node(row) for row in connection.execute(_ALL.order_by(table.c.name))]


def get(connection: Connection, name: str) -> Node | None:
    row = connection.execute(_ALL.where(table.c.name == name)).one_or_none()
    return _node(row) if row else None


def away(connection: Connection, name: str) -> None:
    """The node does not answer: it gets no new runs until it does."""
    connection.execute(
        update(table).where(table.c.name == name, table.c.away_at.is_(None)).values(away_at=func.clock_timestamp())
    )


def owners(connection: Connection, name: str) -> list[str]:
    """The uids of all that has room on the node."""
    return sorted(connection.scalars(select(claims.c.uid).where(claims.c.node == name).distinct()))


def remove(connection: Connection, name: str) -> bool:
    """The node is no more; False when there is none of that name."""
    return connection.execute(delete(table).where(table.c.name == name)).rowcount == 1


def cordon(connection: Connection, name: str) -> bool:
    """The node gets no new runs; False when there is no such node."""
    return _change(connection, name, cordoned=True)


def uncordon(connection: Connection, name: str) -> bool:
    """The node takes runs again; a drain is over, and what was told to leave by it has still to."""
    return _change(connection, name, cordoned=False, drain_by=None, drain_reason="")


def drain(connection: Connection, name: str, notice: float, reason: str) -> bool:
    """What can be moved leaves the node within ``notice`` seconds, or earlier where that was said before."""
    by = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, notice)
    return _change(connection, name, cordoned=True, drain_by=func.least(table.c.drain_by, by), drain_reason=reason)


def _change(connection: Connection, name: str, **values: Any) -> bool:
    found = connection.execute(update(table).where(table.c.name == name).values(**values)).rowcount == 1
    if found:
        notify(connection, CLAIMS)
    return found


# As text: what a node says of itself seldom changes, and one text is read once.
_ALL = select(
    table.c.name,
    cast(table.c.observation, Text).label("observation"),
    *(table.c[name] for name in ("seen_at", "cordoned", "drain_by", "drain_reason", "away_at")),
)


def _node(row: Row[Any]) -> Node:
    return Node(_observation(row.observation), row.seen_at, row.cordoned, row.drain_by, row.drain_reason, row.away_at)


@lru_cache(maxsize=1024)
def _observation(text: str) -> NodeObservation:
    return NodeObservation.parse(orjson.loads(text))
