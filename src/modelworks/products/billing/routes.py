"""HTTP of billing: what was spent."""

from __future__ import annotations

from datetime import UTC, datetime
from math import fsum
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.spec import Spec
from modelworks.products.billing import queries
from modelworks.products.billing.cost import By, CostItem, cost
from modelworks.products.context import ContextOf, WorkspaceOf

_routes = APIRouter(tags=["billing"])


def router() -> APIRouter:
    return _routes


def _in_utc(moment: datetime) -> datetime:
    """A time without a zone is UTC. Raises ValueError for years in which nothing can have been metered."""
    if not 2000 <= moment.year < 2200:
        raise ValueError("expected a time between the years 2000 and 2200, such as 2026-01-31 or 2026-01-31T12:00:00Z")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]


class Cost(Spec):
    """A bill. ``until`` is when what goes on was counted."""

    items: list[CostItem]
    total: float
    currency: str
    since: datetime | None
    until: datetime


@_routes.get("/cost", summary="What was spent", operation_id="getCost")
def get_cost(
    context: ContextOf,
    workspace: WorkspaceOf,
    by: Annotated[By, Query(description="One line a resource, or one a UTC day.")] = By.RESOURCE,
    since: Annotated[Moment | None, Query(description="Default: since ever. Without a zone it is UTC.")] = None,
    until: Annotated[Moment | None, Query(description="Exclusive; default and latest: now.")] = None,
) -> Cost:
    """The ledger of a span, to the microsecond; what is still occupied counts up to now."""
    with context.engine.connect() as connection:
        now = queries.database_time(connection)
        end = min(until or now, now)
        if since is not None and until is not None and until <= since:
            raise Invalid("the span is empty", fields=(FieldError("until", "must be after `since`"),))
        items = cost(queries.entries(connection, workspace, since, end), by, since, end)
    return Cost(
        items=items,
        total=fsum(item.amount for item in items),
        currency=context.settings.currency,
        since=since,
        until=end,
    )
