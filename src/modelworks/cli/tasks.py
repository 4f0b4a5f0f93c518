"""`mw service tasks`: the queue of an asynchronous service."""

from __future__ import annotations

from typing import Annotated

import typer

from modelworks.cli.command import invocation
from modelworks.cli.output import age
from modelworks.kernel.errors import Conflict
from modelworks.sdk.client import Document
from modelworks.sdk.services import KIND


def tasks(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The service's name.")],
    state: Annotated[str | None, typer.Option(help="Only these: pending, running or done.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
) -> None:
    """Show the tasks of an asynchronous service: how many, how old, and the newest."""
    call = invocation(ctx)
    client = call.connect()
    found = client.service_tasks(name, state=state, limit=limit)
    if not any(found["counts"].values()) and client.get(KIND, name)["spec"].get("tasks") is None:
        raise Conflict(
            f"the service {name} is not asynchronous: its spec has no tasks", remedy="docs/serving-async.md says how"
        )
    if call.out.as_json:
        call.out.document(found)
        return
    call.out.say(_summary(name, found["counts"]))
    rows = [
        (item["id"], item["state"], str(item["status"] or ""), str(item["attempts"]), age(item["created_at"]))
        for item in found["items"]
    ]
    if rows:
        call.out.table(("ID", "STATE", "STATUS", "ATTEMPTS", "AGE"), rows)


def _summary(name: str, counts: Document) -> str:
    oldest = counts["oldest_seconds"]
    waits = "" if oldest is None else f", the oldest for {oldest:.0f} s"
    return (
        f"{name}: {counts['pending']} pending{waits}; {counts['running']} running;"
        f" done: {counts['succeeded']} good, {counts['failed']} failed"
    )
