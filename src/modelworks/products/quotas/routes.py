"""HTTP of quotas: what is held and spent of each. They are written as any resource is."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel

from modelworks.kernel.quota import told
from modelworks.products.context import ContextOf, WorkspaceOf
from modelworks.products.quotas import queries
from modelworks.products.quotas.spec import Per

_routes = APIRouter(tags=["quotas"])


def router() -> APIRouter:
    return _routes


class LimitUse(BaseModel):
    """One limit. `limit` is `cpu` (millicores), `memory` (bytes), `gpu`, or `instance:` and the type's name."""

    limit: str
    used: int
    most: int
    text: str


class SpendUse(BaseModel):
    """Money of the span that ends at `until`."""

    per: Per
    spent: float
    most: float
    until: datetime


class QuotaUse(BaseModel):
    name: str
    workspace: str
    limits: list[LimitUse]
    spend: SpendUse | None


class QuotaList(BaseModel):
    items: list[QuotaUse]
    currency: str


@_routes.get("/quotas", summary="Quotas and what is used of them", operation_id="listQuotas")
def list_quotas(context: ContextOf, workspace: WorkspaceOf) -> QuotaList:
    """Of one workspace: what its placed replicas hold now, and what it has spent in the span that runs."""
    with context.engine.connect() as connection:
        held = queries.held(connection, workspace)
        found = queries.stored(connection, workspace)
        money = {budget.quota: budget for budget in queries.budgets(connection, workspace)}
    items = []
    for _, name, spec in found:
        limits = [
            LimitUse(limit=key, used=held[key], most=most, text=f"{told(key, held[key])} of {told(key, most)}")
            for key, most in queries.most(spec).items()
        ]
        budget = money.get(name)
        spend = budget and SpendUse(
            per=budget.spend.per, spent=round(budget.spent, 6), most=budget.spend.amount, until=budget.until
        )
        items.append(QuotaUse(name=name, workspace=workspace, limits=limits, spend=spend))
    return QuotaList(items=items, currency=context.settings.currency)
