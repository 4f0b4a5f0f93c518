"""`mw quota`: the most that a workspace may hold and spend."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelworks.cli.apply import Target, remove
from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.output import money
from modelworks.sdk.client import Document

KIND = "Quota"
app = noun("quota", "Quotas: the most that a workspace may hold and spend.")
Name = Annotated[str, typer.Argument(help="The quota's name.")]


@verb(app, "create")
def create(
    ctx: typer.Context,
    name: Name,
    instances: Annotated[
        list[str] | None, typer.Option("--instances", help="TYPE=NUMBER, at once; may be repeated.")
    ] = None,
    cpu: Annotated[str | None, typer.Option(help="Cores of all instances together.")] = None,
    memory: Annotated[str | None, typer.Option(help="Such as 128Gi.")] = None,
    gpu: Annotated[int | None, typer.Option(min=0, help="GPUs together.")] = None,
    spend: Annotated[float | None, typer.Option(min=0, help="Money of a span.")] = None,
    per: Annotated[str, typer.Option(help="The span: day, week or month.")] = "month",
) -> None:
    """Limit the workspace of --workspace; an existing quota of that name is replaced."""
    call = invocation(ctx)
    spec: dict[str, Any] = {"cpu": cpu, "memory": memory, "gpu": gpu}
    spec = {key: value for key, value in spec.items() if value is not None}
    if instances:
        spec["instances"] = dict(_pair(text) for text in instances)
    if spend is not None:
        spec["spend"] = {"amount": spend, "per": per}
    manifest = {"kind": KIND, "metadata": {"name": name, "workspace": call.workspace}, "spec": spec}
    (result,) = call.connect().apply([manifest])
    if call.out.as_json:
        call.out.document(result)
    else:
        call.out.say(f"{KIND}/{name} {result['action']}")


@verb(app, "list")
def list_quotas(ctx: typer.Context) -> None:
    """List the quotas of a workspace with what is used of them."""
    call = invocation(ctx)
    answer = call.connect().quotas()
    if call.out.as_json:
        call.out.document(answer)
        return
    rows = [row for item in answer["items"] for row in _rows(item, str(answer["currency"]))]
    call.out.table(("NAME", "USED"), rows)


@verb(app, "get")
def get_quota(ctx: typer.Context, name: Name) -> None:
    """Show one quota."""
    call = invocation(ctx)
    quota = call.connect().get(KIND, name)
    if call.out.as_json:
        call.out.document(quota)
    else:
        call.out.yaml(quota)


@verb(app, "delete")
def delete_quota(
    ctx: typer.Context, name: Name, wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True
) -> None:
    """Lift a limit."""
    call = invocation(ctx)
    remove(call, call.connect(), [Target(KIND, name)], wait=wait)


def _pair(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isdigit():
        raise typer.BadParameter(f"expected TYPE=NUMBER, such as local.gpu=4, not {text!r}", param_hint="--instances")
    return name, int(number)


def _rows(quota: Document, currency: str) -> list[tuple[str, str]]:
    rows = [(quota["name"], limit["text"]) for limit in quota["limits"]]
    spend = quota.get("spend")
    if spend:
        rows.append((quota["name"], f"{money(spend['spent'])} of {money(spend['most'], currency)} this {spend['per']}"))
    return rows
