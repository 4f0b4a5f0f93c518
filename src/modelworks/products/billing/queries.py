"""Named SQL of billing: the ledger's rows that touch a span."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Connection, func, or_, select

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
        yield Entry(
            workspace=row.workspace,
            kind=row.kind,
            name=row.name,
            item=row.item,
            quantity=row.quantity,
            unit=row.unit,
            price_per_hour=row.price_per_hour,
            began=row.began_at,
            ended=row.ended_at,
        )


def database_time(connection: Connection) -> datetime:
    """The clock by which the ledger's rows begin and end."""
    now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return now
