"""`mw volume`: persistent directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli.apply import Target, remove
from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.get import message, phase
from modelworks.cli.output import age
from modelworks.kernel.quantities import format_bytes, parse_bytes

KIND = "Volume"
app = noun("volume", "Volumes: persistent directories for jobs and services.")


@verb(app, "create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument()],
    size: Annotated[str, typer.Option(help="Such as 10Gi.")] = "10Gi",
    shared: Annotated[bool, typer.Option("--shared", help="For many workloads at once.")] = False,
    path: Annotated[Path | None, typer.Option(help="An existing directory, such as one on NFS.")] = None,
) -> None:
    """Make a volume, or change its size."""
    call = invocation(ctx)
    spec: dict[str, Any] = {"size": size, "shared": shared}
    if path is not None:
        spec["path"] = str(path.expanduser().absolute())
    manifest = {"kind": KIND, "metadata": {"name": name, "workspace": call.workspace}, "spec": spec}
    (result,) = call.connect().apply([manifest])
    call.out.notes(result.get("notes") or ())
    if call.out.as_json:
        call.out.document(result)
    else:
        call.out.say(f"{KIND}/{name} {result['action']}")


@verb(app, "list")
def list_volumes(ctx: typer.Context) -> None:
    """List volumes."""
    call = invocation(ctx)
    items = list(call.connect().resources(KIND))
    if call.out.as_json:
        call.out.document({"items": items})
        return
    rows = [
        (
            item["metadata"]["name"],
            format_bytes(parse_bytes(item["spec"].get("size", 0))),
            "shared" if item["spec"].get("shared") else "disk",
            phase(item),
            age(item["metadata"].get("created_at")),
            message(item),
        )
        for item in items
    ]
    call.out.table(("NAME", "SIZE", "TYPE", "PHASE", "AGE", "MESSAGE"), rows, right=("SIZE",))


@verb(app, "delete")
def delete_volume(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument()],
    wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
) -> None:
    """Delete a volume and what is in it; refused while a workload uses it."""
    call = invocation(ctx)
    remove(call, call.connect(), [Target(KIND, name)], wait=wait)
