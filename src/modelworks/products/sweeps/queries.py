"""Named SQL of sweeps. The wish to stop is an event, so that no pass that is under way can overwrite it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from modelworks.db import trials as stored
from modelworks.db.tables import events, ledger
from modelworks.db.tables import resources as table
from modelworks.kernel.decision import OWNER
from modelworks.kernel.resource import Resource
from modelworks.products.training.facade import TRAINING_JOB

STOP_REQUESTED = "StopRequested"

trials = stored.of


def jobs(
    connection: Connection, sweep: Resource, names: Sequence[str] | None
) -> Sequence[tuple[str, dict[str, Any], bool]]:
    """``name, status, deleting`` of the sweep's own jobs with these names, or of all."""
    if names is not None and not names:
        return ()
    query = (
        select(table.c.name, table.c.status, table.c.deleting)
        .where(table.c.workspace == sweep.ref.workspace, table.c.kind == TRAINING_JOB.name)
        .where(table.c.labels.contains({OWNER: sweep.uid}))
    )
    if names is not None:
        query = query.where(table.c.name.in_(names))
    return [(row.name, row.status, row.deleting is not None) for row in connection.execute(query)]


def taken(connection: Connection, sweep: Resource, names: Sequence[str]) -> frozenset[str]:
    """Those of the names that are jobs of somebody else's."""
    if not names:
        return frozenset()
    query = (
        select(table.c.name)
        .where(table.c.workspace == sweep.ref.workspace, table.c.kind == TRAINING_JOB.name)
        .where(table.c.name.in_(names), ~table.c.labels.contains({OWNER: sweep.uid}))
    )
    return frozenset(connection.scalars(query))


def costs(connection: Connection, sweep: Resource, names: Sequence[str]) -> dict[str, float]:
    """What the sweep's own jobs of these names cost until now, deleted ones too; others may have had the names."""
    if not names:
        return {}
    ended = func.coalesce(ledger.c.ended_at, func.clock_timestamp())
    hours = func.extract("epoch", ended - ledger.c.began_at) / 3600
    query = (
        select(ledger.c.name, func.sum(hours * ledger.c.quantity * ledger.c.price_per_hour))
        .where(ledger.c.workspace == sweep.ref.workspace, ledger.c.kind == TRAINING_JOB.name)
        .where(ledger.c.name.in_(names), ledger.c.owner == sweep.uid)
        .group_by(ledger.c.name)
    )
    return {name: float(amount) for name, amount in connection.execute(query)}


def last_stop(connection: Connection, uid: str) -> int:
    """The number of the event by which somebody last asked to stop the sweep; 0 when nobody did."""
    query = select(events.c.seq).where(events.c.uid == uid, events.c.reason == STOP_REQUESTED)
    return connection.scalar(query.order_by(events.c.seq.desc()).limit(1)) or 0
