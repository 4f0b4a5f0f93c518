"""`mw environment` and `mw instance-type`: the catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli.apply import Target, remove
from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.output import money
from modelworks.kernel.quantities import format_bytes, format_cpu, parse_bytes, parse_cpu
from modelworks.sdk.requirements import read_requirements

KIND = "Environment"
app = noun("environment", "Environments: sets of packages for jobs and services.")
instance_types = noun("instance-type", "Instance types: shapes with a price.")


@verb(app, "create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument()],
    requirements: Annotated[Path | None, typer.Option("--requirements", "-r", help="A requirements.txt.")] = None,
    package: Annotated[list[str] | None, typer.Option("--package", "-p", help="A pip requirement; repeat.")] = None,
    python: Annotated[str | None, typer.Option(help="Such as 3.12; default the platform's own.")] = None,
) -> None:
    """Make an environment out of a requirements file or single packages."""
    call = invocation(ctx)
    lines = list(package or ())
    if requirements is not None:
        lines += read_requirements(requirements)
    spec: dict[str, Any] = {"requirements": lines}
    if python is not None:
        spec["python"] = python
    manifest = {"kind": KIND, "metadata": {"name": name, "workspace": call.workspace}, "spec": spec}
    (result,) = call.connect().apply([manifest])
    call.out.notes(result.get("notes") or ())
    if call.out.as_json:
        call.out.document(result)
    else:
        call.out.say(f"{KIND}/{name} {result['action']}")


@verb(app, "list")
def list_environments(ctx: typer.Context) -> None:
    """List environments, the shipped ones and your own."""
    call = invocation(ctx)
    items = call.connect().environments()
    if call.out.as_json:
        call.out.document({"items": items})
        return
    rows = [
        (
            item.get("name"),
            str(item.get("digest") or "")[:12],
            item.get("image") or _packages(len(item.get("requirements") or ())),
            item.get("description") or "",
        )
        for item in items
    ]
    call.out.table(("NAME", "DIGEST", "HOLDS", "DESCRIPTION"), rows)


def _packages(count: int) -> str:
    return "1 package" if count == 1 else f"{count} packages"


@verb(app, "delete")
def delete_environment(ctx: typer.Context, name: Annotated[str, typer.Argument()]) -> None:
    """Delete an environment of your own."""
    call = invocation(ctx)
    remove(call, call.connect(), [Target(KIND, name)], wait=True)


@verb(instance_types, "list")
def list_instance_types(ctx: typer.Context) -> None:
    """List instance types."""
    call = invocation(ctx)
    items = call.connect().instance_types()
    if call.out.as_json:
        call.out.document({"items": items})
        return
    rows = []
    for item in items:
        shape = item.get("resources") or item
        gpu = f"{shape['gpu']} × {shape.get('gpu_model') or 'GPU'}" if shape.get("gpu") else ""
        rows.append(
            (
                item.get("name"),
                format_cpu(parse_cpu(shape.get("cpu", 0))),
                format_bytes(parse_bytes(shape.get("memory", 0))),
                gpu,
                money(item.get("price_per_hour")),
            )
        )
    call.out.table(("NAME", "CPU", "MEMORY", "GPU", "PRICE/H"), rows, right=("CPU", "MEMORY", "PRICE/H"))
