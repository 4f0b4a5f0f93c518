"""`mw eas`: the cloud's own verbs, each of which is one of `mw service`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelworks.cli import manifests, releases, service
from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.service import Name, Wait
from modelworks.kernel.errors import Invalid
from modelworks.sdk import changes, services

app = noun("eas", "Services, by the verbs of the cloud's tools.")

for _alias in ("list-services", "ls", "list"):
    verb(app, _alias)(service.list_services)
for _alias in ("describe", "desc"):
    verb(app, _alias)(service.get_service)
verb(app, "update")(releases.update)
verb(app, "start")(service.start)
verb(app, "stop")(service.stop)
verb(app, "delete")(service.delete_service)


@verb(app, "create")
def create(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(help="Service JSON or YAML.")], wait: Wait = False
) -> None:
    """Create a service."""
    service.create(ctx, [file], wait)


@verb(app, "modify")
def modify(
    ctx: typer.Context,
    name: Name,
    filename: Annotated[Path, typer.Option("--service", "-s", help="Service JSON or YAML with what changes.")],
    wait: Wait = False,
) -> None:
    """Change the fields of a service that a file holds; the others stay."""
    call = invocation(ctx)
    client = call.connect()
    source = manifests.find_one(manifests.load([filename], name=name), services.KIND)
    if source.document["metadata"]["name"] != name:
        raise Invalid(f"{source.place} is about {source.document['metadata']['name']}, not about {name}")
    call.out.notes(source.notes)
    (document,) = manifests.prepare(client, [source])
    applied = changes.change(client, name, lambda spec: changes.merged(spec, document["spec"]))
    call.out.notes(applied.get("notes") or ())
    answer = service.wait_ready(call, client, name) if wait else applied["resource"]
    if call.out.as_json:
        call.out.document(answer)
    else:
        call.out.say(f"{services.KIND}/{name} {applied['action']}")


@verb(app, "logs")
def logs(
    ctx: typer.Context,
    name: Name,
    tail: Annotated[int | None, typer.Option(min=0, help="Only so many of the last lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Print a replica's log."""
    call = invocation(ctx)
    service.print_log(call, call.connect(), name, follow=follow, replica=None, tail=tail)


@verb(app, "version")
def version(
    ctx: typer.Context,
    name: Name,
    number: Annotated[str, typer.Argument(help="A revision's number, of `mw service revisions`.")],
    wait: Wait = False,
) -> None:
    """Go to another version of a service."""
    releases.rollback(ctx, name, number, wait)
