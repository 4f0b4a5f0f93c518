"""Named SQL of billing: the ledger's rows that touch a span."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Connection, Row, String, bindparam, func, or_, select, text

from modelworks.db.tables import ledger
from modelworks.products.billing.cost import Entry


def entries(connection: Connection, workspace: str | None, since: datetime | None, until: datetime) -> Iterator[Entry]:
    """Rows that overlap ``[since, until)``, of one workspace or all."""
    query = select(ledger).where(ledger.c.began_at < until)
    if workspace is not None:
        query = query.where(ledger.c.workspace == workspace)
    if since is not None:
        query = query.where(or_(ledger.c.ended_at.is_(None), ledger.c.ended_at > since))
    for row in connection.execution_options(yield_per=1000).execute(query):
        yield _entry(row)


def occupations(connection: Connection, uids: Collection[str]) -> dict[str, list[Entry]]:
    """All rows of some resources, by uid, the oldest first."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for row in connection.execute(_OCCUPATIONS, {"uids": sorted(uids)}):
        found[row.uid].append(_entry(row))
    return dict(found)


# Asked with every pass over jobs.
_OCCUPATIONS = text("SELECT * FROM ledger WHERE uid = ANY(:uids) ORDER BY began_at, id").bindparams(
    bindparam("uids", type_=ARRAY(String))
)


def hourly(connection: Connection, workspace: str) -> tuple[float, float]:
    """What a workspace's open occupations cost an hour, and the database's time (Unix seconds)."""
    price = func.coalesce(func.sum(ledger.c.quantity * ledger.c.price_per_hour), 0.0)
    query = select(price, func.extract("epoch", func.clock_timestamp()))
    row = connection.execute(query.where(ledger.c.workspace == workspace, ledger.c.ended_at.is_(None))).one()
    return float(row[0]), float(row[1])


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        workspace=row.workspace,
        kind=row.kind,
        name=row.name,
        item=row.item,
        quantity=row.quantity,
        unit=row.unit,
        price_per_hour=row.price_per_hour,
        began=row.began_at,
        ended=row.ended_at,
        key=row.key,
    )


def database_time(connection: Connection) -> datetime:
    """The clock by which the ledger's rows begin and end."""
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now
