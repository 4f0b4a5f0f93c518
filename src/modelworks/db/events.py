"""Events: appended in the transaction of what they tell, read by cursor in an order in which nothing is skipped.

A row is readable once every transaction that could still commit before it has ended (``xid`` below
``pg_snapshot_xmin``), and the order is ``(xid, seq)``: ``seq`` alone is not the order of commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, literal_column, select, text, tuple_
from sqlalchemy.dialects.postgresql import JSONB

from modelworks.db.listen import EVENTS
from modelworks.db.tables import events as table
from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.events import Event, Level
from modelworks.kernel.resource import Ref

_LARGEST = 2**63 - 1


@dataclass(frozen=True, order=True)
class Cursor:
    """A place between two events. Its text is ``<xid>.<seq>``; ``0`` is the beginning."""

    xid: int = 0
    seq: int = 0

    def __str__(self) -> str:
        return f"{self.xid}.{self.seq}"

    @classmethod
    def parse(cls, value: str) -> Cursor:
        """Raises Invalid for text that is no cursor."""
        xid, _, seq = value.partition(".")
        numbers = [xid, seq or "0"]
        if not all(n.isascii() and n.isdigit() and int(n) <= _LARGEST for n in numbers if len(n) < 20) or any(
            len(n) >= 20 for n in numbers
        ):
            raise Invalid(
                "not a cursor of the events", fields=(FieldError("since", "use the cursor of an earlier answer, or 0"),)
            )
        return cls(*map(int, numbers))


@dataclass(frozen=True)
class Page:
    """Events, oldest first, and the cursor behind them."""

    items: tuple[Event, ...]
    cursor: Cursor


def append(
    connection: Connection,
    ref: Ref,
    uid: str,
    reason: str,
    message: str,
    level: Level = Level.NORMAL,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Tell what happened; it is readable when the transaction has committed."""
    values = {
        "workspace": ref.workspace,
        "kind": ref.kind,
        "name": ref.name,
        "uid": uid,
        "reason": reason,
        "message": message.replace("\0", "\N{REPLACEMENT CHARACTER}"),
        "level": level.value,
        "data": dict(data or {}),
    }
    connection.execute(_APPEND, values)


def append_once(connection: Connection, ref: Ref, uid: str, reason: str, message: str, level: Level) -> None:
    """As :func:`append`, unless the resource's last event said so already: for what repeats until it is mended."""
    if not any(last.reason == reason and last.message == message for last in latest(connection, uid, 1)):
        append(connection, ref, uid, reason, message, level)


def read(
    connection: Connection,
    after: Cursor,
    *,
    workspace: str | None = None,
    kind: str | None = None,
    name: str | None = None,
    uid: str | None = None,
    limit: int = 1000,
) -> Page:
    """The settled events behind ``after``, oldest first, of whatever matches all that is given."""
    statement = select(table).where(tuple_(table.c.xid, table.c.seq) > tuple_(after.xid, after.seq))
    statement = statement.where(table.c.xid < literal_column(_XMIN))
    for column, value in (("workspace", workspace), ("kind", kind), ("name", name), ("uid", uid)):
        if value is not None:
            statement = statement.where(table.c[column] == value)
    rows = connection.execute(statement.order_by(table.c.xid, table.c.seq).limit(limit)).all()
    return Page(tuple(map(_event, rows)), Cursor(rows[-1].xid, rows[-1].seq) if rows else after)


def latest(connection: Connection, uid: str, limit: int = 20) -> tuple[Event, ...]:
    """The last committed events of one resource, oldest first."""
    statement: Select[Any] = select(table).where(table.c.uid == uid).order_by(table.c.seq.desc()).limit(limit)
    return tuple(reversed([_event(row) for row in connection.execute(statement)]))


def head(connection: Connection) -> Cursor:
    """The cursor behind all that is settled now: reading from it gives what is committed later."""
    return Cursor(int(connection.scalar(text(f"SELECT {_XMIN}")) or 0), 0)


def trim(connection: Connection, *, keep: timedelta, most: int, batch: int = 10_000) -> int:
    """Drop up to ``batch`` events older than ``keep`` or beyond the last ``most``; returns how many went."""
    return connection.execute(_TRIM, {"keep": keep.total_seconds(), "most": most, "batch": batch}).rowcount


_XMIN = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

# The transaction has its number before the row has its own: otherwise an event could be numbered, wait, and then commit
# under a transaction id that readers believe to be new.
_APPEND = text(
    f"""
WITH me AS MATERIALIZED (SELECT pg_current_xact_id()::text::bigint AS xid), appended AS (
    INSERT INTO events (xid, workspace, kind, name, uid, reason, message, level, data)
    SELECT me.xid, :workspace, :kind, :name, :uid, :reason, :message, :level, :data FROM me
)
SELECT pg_notify('{EVENTS}', '')
"""
).bindparams(bindparam("data", type_=JSONB))

_TRIM = text(
    """
DELETE FROM events WHERE seq IN (
    SELECT seq FROM events
    WHERE at < now() - make_interval(secs => :keep) OR seq <= (SELECT max(seq) FROM events) - :most
    ORDER BY seq LIMIT :batch
)
"""
)


def _event(row: Row[Any]) -> Event:
    return Event(
        seq=row.seq,
        at=row.at,
        ref=Ref(row.workspace, row.kind, row.name),
        uid=row.uid,
        reason=row.reason,
        message=row.message,
        level=Level(row.level),
        data=row.data,
    )
