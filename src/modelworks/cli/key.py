"""`mw key`: API keys."""

from __future__ import annotations

from typing import Annotated

import typer

from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.output import age

app = noun("key", "API keys: create, list, revoke.")
Name = Annotated[str, typer.Argument(help="What the key is called.")]


@verb(app, "create")
def create(
    ctx: typer.Context,
    name: Name,
    read_only: Annotated[bool, typer.Option("--read-only", help="May look, not change.")] = False,
    only_workspace: Annotated[
        str | None, typer.Option("--only-workspace", help="Good for this workspace alone.")
    ] = None,
) -> None:
    """Make a key. Its text is shown once."""
    call = invocation(ctx)
    made = call.connect().create_key(name, read_only=read_only, workspace=only_workspace)
    if call.out.as_json:
        call.out.document(made)
    else:
        call.out.say(str(made.get("key") or made.get("api_key")))
        call.out.note("this is shown once; keep it")


@verb(app, "list")
def list_keys(ctx: typer.Context) -> None:
    """List keys, without their text."""
    call = invocation(ctx)
    items = call.connect().keys()
    if call.out.as_json:
        call.out.document({"items": items})
        return
    rows = [
        (
            item.get("name"),
            item.get("workspace") or "all",
            "read" if item.get("read_only") else "all",
            age(item.get("created_at")),
            "revoked" if item.get("revoked_at") else "",
        )
        for item in items
    ]
    call.out.table(("NAME", "WORKSPACE", "MAY", "AGE", "STATE"), rows)


@verb(app, "revoke")
def revoke(ctx: typer.Context, name: Name) -> None:
    """Make a key useless at once."""
    call = invocation(ctx)
    call.connect().revoke_key(name)
    if call.out.as_json:
        call.out.document({"revoked": name})
    else:
        call.out.say(f"key {name} revoked")
