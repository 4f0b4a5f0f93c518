"""`mw node`: the machines, and taking them out of service."""

from __future__ import annotations

from typing import Annotated

import typer

from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.output import age
from modelworks.kernel.quantities import (
    format_bytes,
    format_cpu,
    format_duration,
    parse_bytes,
    parse_cpu,
    parse_duration,
)
from modelworks.sdk.client import Document

app = noun("node", "Nodes: room, cordon, drain.")
Name = Annotated[str, typer.Argument(help="The node's name.")]


@verb(app, "list")
def list_nodes(ctx: typer.Context) -> None:
    """List nodes with what is taken of them."""
    call = invocation(ctx)
    items = call.connect().nodes()
    if call.out.as_json:
        call.out.document({"items": items})
        return
    columns = ("NAME", "STATE", "CPU", "MEMORY", "GPU", "REPLICAS", "SEEN")
    call.out.table(columns, [_row(item) for item in items], right=("REPLICAS",))


@verb(app, "get")
def get_node(ctx: typer.Context, name: Name) -> None:
    """Show one node and what runs on it."""
    call = invocation(ctx)
    node = call.connect().node(name)
    if call.out.as_json:
        call.out.document(node)
    else:
        call.out.yaml(node)


@verb(app, "cordon")
def cordon(ctx: typer.Context, name: Name) -> None:
    """Give a node no new work; what runs there stays."""
    call = invocation(ctx)
    node = call.connect().cordon_node(name)
    call.out.document(node) if call.out.as_json else call.out.say(f"node {name} is cordoned")


@verb(app, "uncordon")
def uncordon(ctx: typer.Context, name: Name) -> None:
    """Give a node work again; ends a drain, too."""
    call = invocation(ctx)
    node = call.connect().uncordon_node(name)
    call.out.document(node) if call.out.as_json else call.out.say(f"node {name} takes work")


@verb(app, "drain")
def drain(
    ctx: typer.Context,
    name: Name,
    notice: Annotated[str, typer.Option(help="Time for jobs to save a checkpoint, such as 30s.")] = "180s",
    reason: Annotated[str, typer.Option(help="Told to those who leave.")] = "",
) -> None:
    """Empty a node: no new work; jobs on it save and go on elsewhere, services when another replica serves there."""
    call = invocation(ctx)
    try:
        seconds = parse_duration(notice)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--notice") from None
    node = call.connect().drain_node(name, notice=seconds, reason=reason)
    if call.out.as_json:
        call.out.document(node)
        return
    call.out.say(f"node {name} is drained: jobs leave within {format_duration(seconds)}")
    services = sorted({workload["name"] for workload in node["workloads"] if workload["kind"] == "Service"})
    if services:
        call.out.note(f"services leave when another replica of theirs serves elsewhere: {', '.join(services)}")


def _row(node: Document) -> tuple[object, ...]:
    capacity = node["capacity"]
    cpu = f"{format_cpu(round(node['used_cpu'] * 1000))} of {format_cpu(parse_cpu(capacity['cpu']))}"
    memory = f"{format_bytes(node['used_memory'])} of {format_bytes(parse_bytes(capacity['memory']))}"
    gpu = f"{node['used_gpu']} of {capacity.get('gpu', 0)}" if capacity.get("gpu") else ""
    return node["name"], _state(node), cpu, memory, gpu, node["claims"], age(node["seen_at"])


def _state(node: Document) -> str:
    if node.get("away_at"):
        return "Away"
    if node.get("drain_by"):
        return "Draining" if node["claims"] else "Drained"
    return "Cordoned" if node["cordoned"] else "Ready"
