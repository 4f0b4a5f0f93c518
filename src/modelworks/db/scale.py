"""Decisions of the autoscaler, with the numbers that made them; the last ones of each service are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from modelworks.db.tables import scale_decisions as table

KEPT = 200


@dataclass(frozen=True)
class ScaleDecision:
    """``numbers`` are the metrics and their targets, the replicas that served, and why."""

    at: datetime
    before: int
    after: int
    reason: str
    numbers: Mapping[str, Any]


def record(
    connection: Connection, uid: str, *, before: int, after: int, reason: str, numbers: Mapping[str, Any]
) -> None:
    """Keep a decision, and drop those of the service that are too old."""
    row = {"uid": uid, "before": before, "after": after, "reason": reason, "numbers": dict(numbers)}
    connection.execute(insert(table).values(row))
    oldest = (
        select(table.c.id).where(table.c.uid == uid).order_by(table.c.id.desc()).offset(KEPT).limit(1).scalar_subquery()
    )
    connection.execute(delete(table).where(table.c.uid == uid, table.c.id <= oldest))


def latest(connection: Connection, uid: str, limit: int = 10) -> tuple[ScaleDecision, ...]:
    """The last decisions, the newest first."""
    rows = connection.execute(select(table).where(table.c.uid == uid).order_by(table.c.id.desc()).limit(limit))
    return tuple(ScaleDecision(row.at, row.before, row.after, row.reason, row.numbers) for row in rows)
