"""Named SQL of training, and what a pass asks of others for all its jobs at once.

The wish to cancel is an event, so that no pass that is under way can overwrite it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from modelworks.db.tables import events
from modelworks.kernel.resource import Resource
from modelworks.products.billing.facade import hourly, occupations
from modelworks.products.quotas.facade import budgets
from modelworks.products.training.budget import Funds, Occupation

CANCEL_REQUESTED = "CancelRequested"


def cancel_requested_at(connection: Connection, uid: str) -> float | None:
    """When somebody first asked to cancel the job, in Unix seconds."""
    query = select(events.c.at).where(events.c.uid == uid, events.c.reason == CANCEL_REQUESTED)
    at = connection.scalar(query.order_by(events.c.seq).limit(1))
    return None if at is None else at.timestamp()


def occupied(connection: Connection, resources: Sequence[Resource]) -> dict[str, list[Occupation]]:
    """The rows of the ledger of each resource, by uid."""
    rows = occupations(connection, [resource.uid for resource in resources])
    return {
        uid: [
            Occupation(
                row.key,
                row.quantity * row.price_per_hour,
                row.began.timestamp(),
                row.ended.timestamp() if row.ended else None,
            )
            for row in found
        ]
        for uid, found in rows.items()
    }


def limited(connection: Connection, resources: Sequence[Resource]) -> dict[str, tuple[Funds, ...]]:
    """What each workspace may spend, where a quota limits it."""
    found: dict[str, tuple[Funds, ...]] = {}
    for workspace in {resource.ref.workspace for resource in resources}:
        limits = budgets(connection, workspace)
        if limits:
            rate, at = hourly(connection, workspace)
            found[workspace] = tuple(Funds(one.spend.amount, one.spent, rate, at, one.told) for one in limits)
    return found
