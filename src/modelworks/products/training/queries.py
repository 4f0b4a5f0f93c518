"""Named SQL of training, and what a pass asks of others for all its jobs at once.

The wish to cancel is an event, so that no pass that is under way can overwrite it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ARRAY, Connection, String, bindparam, func, select, text

from modelworks.db.tables import ledger
from modelworks.db.tables import resources as table
from modelworks.kernel.resource import Resource
from modelworks.products.billing.facade import hourly, occupations
from modelworks.products.quotas.facade import budgets
from modelworks.products.training.budget import Funds, Occupation
from modelworks.products.training.estimates import Past

CANCEL_REQUESTED = "CancelRequested"
_REMEMBERED = 10  # jobs of which an estimate is made


def cancel_requests(connection: Connection, resources: Sequence[Resource]) -> dict[str, float]:
    """When somebody first asked to cancel each of the jobs, in Unix seconds, by uid."""
    rows = connection.execute(_CANCELS, {"uids": [resource.uid for resource in resources], "reason": CANCEL_REQUESTED})
    return {uid: at.timestamp() for uid, at in rows}


_CANCELS = text(
    "SELECT DISTINCT ON (uid) uid, at FROM events WHERE uid = ANY(:uids) AND reason = :reason ORDER BY uid, seq"
).bindparams(bindparam("uids", type_=ARRAY(String)))


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


def history(connection: Connection, workspace: str, name: str, labels: Mapping[str, str]) -> list[Past]:
    """The last jobs of that name, deleted ones too, or with all of these labels (where there are any), that ended."""
    of_name = ledger.c.name == name
    alike = select(table.c.uid).where(table.c.workspace == workspace, table.c.kind == "TrainingJob")
    wanted = of_name | ledger.c.uid.in_(alike.where(table.c.labels.contains(dict(labels)))) if labels else of_name
    hours = func.extract("epoch", ledger.c.ended_at - ledger.c.began_at) / 3600
    query = (
        select(
            func.extract("epoch", func.max(ledger.c.ended_at) - func.min(ledger.c.began_at)),
            func.sum(hours * ledger.c.quantity * ledger.c.price_per_hour),
        )
        .where(ledger.c.workspace == workspace, ledger.c.kind == "TrainingJob", wanted)
        .group_by(ledger.c.uid)
        .having(func.bool_and(ledger.c.ended_at.is_not(None)))
        .order_by(func.max(ledger.c.ended_at).desc())
        .limit(_REMEMBERED)
    )
    return [Past(float(seconds), float(amount)) for seconds, amount in connection.execute(query)]
