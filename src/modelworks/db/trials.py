"""Trials of sweeps: the parameters that were drawn for each, and how it ended. A trial that ended stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from modelworks.db.tables import trials as table
from modelworks.kernel.decision import TrialReport, TrialResult

RUNNING = "running"
_WITHOUT_REPORTS = [column for column in table.c if column.name != "reports"]


@dataclass(frozen=True)
class StoredTrial:
    """``step`` is the last one reported, ``prune`` that the algorithm wants an end; ``reports``: step → value."""

    number: int
    parameters: dict[str, Any]
    state: str
    value: float | None
    step: int | None
    prune: bool
    reason: str
    created_at: datetime
    ended_at: datetime | None
    reports: dict[str, float] | None = None


def of(connection: Connection, uid: str, *, reports: bool = False) -> list[StoredTrial]:
    """A sweep's trials by number; with ``reports``, every value that was seen of each."""
    columns = list(table.c) if reports else _WITHOUT_REPORTS
    rows = connection.execute(select(*columns).where(table.c.uid == uid).order_by(table.c.number))
    return [_stored(row, reports) for row in rows]


def add(connection: Connection, uid: str, number: int, parameters: Mapping[str, Any]) -> None:
    """One that is there stays as it is."""
    row = {"uid": uid, "number": number, "parameters": dict(parameters)}
    connection.execute(insert(table).values(row).on_conflict_do_nothing())


def report(connection: Connection, uid: str, reports: Iterable[TrialReport], prune: Iterable[int]) -> None:
    """Keep values of trials that go on; those in ``prune`` are to end."""
    ending = set(prune)
    for one in reports:
        _running(
            connection,
            uid,
            one.number,
            step=one.step,
            value=one.value,
            reports=table.c.reports.op("||")(cast({str(one.step): one.value}, JSONB)),
            **({"prune": True} if one.number in ending else {}),
        )


def end(connection: Connection, uid: str, results: Iterable[TrialResult]) -> None:
    for one in results:
        values: dict[str, Any] = {"state": one.state, "reason": one.reason, "ended_at": func.now()}
        if one.value is not None:
            values["value"] = one.value
            if one.step is not None:
                values["reports"] = table.c.reports.op("||")(cast({str(one.step): one.value}, JSONB))
        if one.step is not None:
            values["step"] = one.step
        _running(connection, uid, one.number, **values)


def _running(connection: Connection, uid: str, number: int, **values: Any) -> None:
    which = (table.c.uid == uid) & (table.c.number == number) & (table.c.state == text(f"'{RUNNING}'"))
    connection.execute(update(table).where(which).values(**values))


def _stored(row: Row[Any], reports: bool) -> StoredTrial:
    return StoredTrial(
        row.number,
        row.parameters,
        row.state,
        row.value,
        row.step,
        row.prune,
        row.reason,
        row.created_at,
        row.ended_at,
        row.reports if reports else None,
    )
