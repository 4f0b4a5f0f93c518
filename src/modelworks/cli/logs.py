"""`mw logs` and `mw events`: what a workload said, and what happened to it."""

from __future__ import annotations

from collections import deque
from typing import Annotated

import typer

from modelworks.cli import kinds
from modelworks.cli.command import Invocation, invocation
from modelworks.cli.job import print_followed_log
from modelworks.cli.output import log_writer, shown
from modelworks.cli.service import print_log
from modelworks.kernel.errors import Invalid, NotFound
from modelworks.sdk import jobs, services
from modelworks.sdk.client import Client, Document

_WAIT = 20.0
_PAGE = 1000


def logs(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A job or a service; job/NAME or service/NAME when both exist.")],
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
    replica: Annotated[int | None, typer.Option(min=0)] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of a service's replica: its run that ended last.")
    ] = False,
) -> None:
    """Print the log of a job or a service."""
    call = invocation(ctx)
    client = call.connect()
    kind, _, rest = name.rpartition("/")
    if kind:
        kind, name = kinds.resolve(client, kind), rest
    else:
        kind = _kind_of(client, name)
    if kind == services.KIND:
        print_log(call, client, name, follow=follow, replica=replica, previous=previous)
    elif previous:
        raise Invalid("--previous is for services", remedy=f"mw job log {name} --attempt NUMBER")
    elif follow:
        print_followed_log(call, client, name, replica)
    else:
        with log_writer(call.out) as out, shown(out, follow=False) as write:
            for chunk in client.job_log(name, replica=replica):
                write(chunk)


def _kind_of(client: Client, name: str) -> str:
    found = [kind for kind in (jobs.KIND, services.KIND) if client.find(kind, name) is not None]
    if not found:
        raise NotFound(f"there is no job and no service {name}", remedy="mw job list, mw service list")
    if len(found) > 1:
        raise Invalid(f"{name} is a job and a service", remedy=f"mw logs job/{name}, or mw logs service/{name}")
    return found[0]


def events(
    ctx: typer.Context,
    kind: Annotated[str | None, typer.Argument(help="Only of this kind.")] = None,
    name: Annotated[str | None, typer.Argument(help="Only of this resource.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10000, help="The last so many.")] = 200,
    since: Annotated[str | None, typer.Option(help="After this cursor of an earlier --json answer.")] = None,
) -> None:
    """Show what happened last, oldest first. With --json and --follow each event is one line."""
    call = invocation(ctx)
    client = call.connect()
    resolved = kinds.resolve(client, kind) if kind else None
    items, cursor = _last_events(client, resolved, name, since, limit)
    if follow:
        _follow_events(call, client, resolved, name, items, cursor)
    elif call.out.as_json:
        call.out.document({"items": items, "cursor": cursor})
    else:
        call.out.table(("AT", "RESOURCE", "REASON", "MESSAGE"), [_row(item) for item in items])


def _last_events(
    client: Client, kind: str | None, name: str | None, since: str | None, limit: int
) -> tuple[list[Document], str]:
    """The last ``limit`` events there are, and the cursor after them."""
    last: deque[Document] = deque(maxlen=limit)
    while True:
        items, since = client.events(kind, name, since=since, limit=_PAGE)
        last.extend(items)
        if len(items) < _PAGE:
            return list(last), since


def _follow_events(
    call: Invocation, client: Client, kind: str | None, name: str | None, items: list[Document], cursor: str
) -> None:
    while True:
        for item in items:
            if call.out.as_json:
                call.out.line(item)
            else:
                call.out.say("  ".join(_row(item)))
        items, cursor = client.events(kind, name, since=cursor, wait=_WAIT)


def _row(item: Document) -> tuple[str, str, str, str]:
    at = str(item.get("at", ""))[11:19]
    return (
        at,
        f"{item.get('kind', '')}/{item.get('name', '')}",
        str(item.get("reason", "")),
        str(item.get("message", "")),
    )
