"""`mw cost`: what was occupied, and what it comes to."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from modelworks.cli.command import invocation
from modelworks.cli.output import Output, money, quantity_hours
from modelworks.sdk.client import Document


class By(StrEnum):
    RESOURCE = "resource"
    DAY = "day"


def cost(
    ctx: typer.Context,
    by: Annotated[By, typer.Option(help="Rows by resource or by day.")] = By.RESOURCE,
    since: Annotated[str | None, typer.Option(help="From this day or time, such as 2026-01-31.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this day or time.")] = None,
) -> None:
    """Show the cost of everything that occupied an instance type or storage."""
    call = invocation(ctx)
    answer = call.connect().cost(by=by.value, since=since, until=until)
    if call.out.as_json:
        call.out.document(answer)
    else:
        cost_table(call.out, answer, by)


def cost_table(out: Output, answer: Document, by: By = By.RESOURCE) -> None:
    """Rows of the ledger with their total."""
    currency = str(answer.get("currency", ""))
    rows = [
        (
            item.get("day") if by is By.DAY else "/".join(str(item.get(k, "")) for k in ("kind", "name")),
            item.get("item", ""),
            quantity_hours(item.get("quantity_hours"), str(item.get("unit", ""))),
            money(item.get("amount")),
        )
        for item in answer.get("items") or ()
    ]
    rows.append(("total", "", "", money(answer.get("total"), currency)))
    first = "DAY" if by is By.DAY else "RESOURCE"
    out.table((first, "ITEM", "QUANTITY", "COST"), rows, right=("QUANTITY", "COST"))
