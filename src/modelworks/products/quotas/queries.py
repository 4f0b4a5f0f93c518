"""Named SQL of quotas: which are in force, what is held of them, and what was spent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, case, func, select, text

from modelworks.db.tables import claims, ledger
from modelworks.db.tables import resources as table
from modelworks.kernel.errors import Invalid
from modelworks.kernel.quota import INSTANCE, Limit
from modelworks.kernel.run import Resources
from modelworks.products.quotas.span import span
from modelworks.products.quotas.spec import QuotaSpec, Spend

KIND = "Quota"


@dataclass(frozen=True)
class Budget:
    """The money of one quota: what of ``spend.amount`` is spent in the span that ends at ``until``."""

    quota: str
    spend: Spend
    spent: float
    until: datetime

    @property
    def over(self) -> bool:
        return self.spent >= self.spend.amount

    @property
    def told(self) -> str:
        return (
            f"the quota {self.quota} is spent: {self.spent:.2f} of {self.spend.amount:g} this {self.spend.per}; "
            f"the next begins on {self.until:%Y-%m-%d}"
        )


def stored(connection: Connection, workspace: str | None = None) -> list[tuple[str, str, QuotaSpec]]:
    """Workspace, name and spec of the quotas in force, of one workspace or all, that this release can read."""
    return [(where, name, spec) for where, name, spec in _all(connection, workspace) if spec is not None]


def _all(connection: Connection, workspace: str | None = None) -> list[tuple[str, str, QuotaSpec | None]]:
    rows = connection.execute(_IN_FORCE, {"kind": KIND, "workspace": workspace})
    return [(row.workspace, row.name, _spec(row.spec)) for row in rows]


_IN_FORCE = text(
    """
SELECT workspace, name, spec FROM resources
WHERE kind = :kind AND deleting IS NULL AND (CAST(:workspace AS text) IS NULL OR workspace = :workspace)
ORDER BY workspace, name
"""
)


def _spec(data: object) -> QuotaSpec | None:
    try:
        return QuotaSpec.parse(data, at="spec")
    except Invalid:
        return None  # of another release


def limits(connection: Connection) -> list[Limit]:
    """Every quota as admission weighs it. Of one that cannot be read nobody knows what it allows: its workspace waits,
    and no other.
    """
    quotas = _all(connection)
    found = [(workspace, name, spec) for workspace, name, spec in quotas if spec is not None]
    spent = _spent_of(connection, found)
    unknown = [
        Limit(name, workspace, spent=f"waits for the quota {name}, which this release cannot read: apply it anew")
        for workspace, name, spec in quotas
        if spec is None
    ]
    return unknown + [
        Limit(
            name=name,
            workspace=workspace,
            most=most(spec),
            spent=f"waits for money: {budget.told}" if (budget := spent.get((workspace, name))) and budget.over else "",
        )
        for workspace, name, spec in found
    ]


def most(spec: QuotaSpec) -> dict[str, int]:
    """The limits of a quota by the names that ``kernel.quota`` counts."""
    plain = {"cpu": spec.cpu, "memory": spec.memory, "gpu": spec.gpu}
    return {name: value for name, value in plain.items() if value is not None} | {
        INSTANCE + name: count for name, count in spec.instances.items()
    }


def spent(connection: Connection, workspace: str, since: datetime, until: datetime | None = None) -> float:
    """What a workspace's occupations cost in ``[since, until)``, those that go on up to now (the default)."""
    end = func.least(func.coalesce(ledger.c.ended_at, func.clock_timestamp()), until or func.clock_timestamp())
    hours = func.extract("epoch", end - func.greatest(ledger.c.began_at, since)) / 3600
    cost = case((hours > 0, hours * ledger.c.quantity * ledger.c.price_per_hour), else_=0.0)
    query = select(func.coalesce(func.sum(cost), 0.0)).where(ledger.c.workspace == workspace)
    return float(connection.scalar(query.where((ledger.c.ended_at.is_(None)) | (ledger.c.ended_at > since))) or 0.0)


def budgets(connection: Connection, workspace: str) -> list[Budget]:
    """Where a workspace's money is limited: each such quota."""
    return list(_spent_of(connection, stored(connection, workspace)).values())


def _spent_of(connection: Connection, quotas: list[tuple[str, str, QuotaSpec]]) -> dict[tuple[str, str], Budget]:
    limited = [(workspace, name, spec.spend) for workspace, name, spec in quotas if spec.spend is not None]
    if not limited:
        return {}
    now = connection.scalar(select(func.clock_timestamp()))
    assert now is not None
    known: dict[tuple[str, datetime], float] = {}
    found: dict[tuple[str, str], Budget] = {}
    for workspace, name, spend in limited:
        since, until = span(spend.per, now)
        if (workspace, since) not in known:
            known[workspace, since] = spent(connection, workspace, since)
        found[workspace, name] = Budget(name, spend, known[workspace, since], until)
    return found


def held(connection: Connection, workspace: str) -> Counter[str]:
    """What placed claims of a workspace are, by the names that ``kernel.quota`` counts."""
    query = select(claims.c.claim).join(table, table.c.uid == claims.c.uid)
    found: Counter[str] = Counter()
    for claim in connection.scalars(query.where(table.c.workspace == workspace, claims.c.node.is_not(None))):
        resources = Resources.parse(claim["resources"])
        found.update({"cpu": resources.cpu, "memory": resources.memory, "gpu": resources.gpu})
        found[INSTANCE + claim["instance_type"]] += 1
    return found
