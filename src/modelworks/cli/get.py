"""`mw get`: resources of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated

import typer

from modelworks.cli import environment, kinds
from modelworks.cli.command import Invocation, invocation
from modelworks.cli.output import age
from modelworks.sdk.client import Document


class Format(StrEnum):
    TABLE = "table"
    YAML = "yaml"
    JSON = "json"


class DocumentFormat(StrEnum):
    YAML = "yaml"
    JSON = "json"


# What is shipped is listed beside what the user has made.
_CATALOGUES = {environment.KIND: environment.list_environments, "InstanceType": environment.list_instance_types}

Labels = Annotated[list[str] | None, typer.Option("--label", "-l", help="Only with this label, key=value.")]
Whole = Annotated[DocumentFormat | None, typer.Option("--output", "-o", help="The whole document instead.")]


def get(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(help="Such as job, service, model, bucket, volume, environment.")],
    name: Annotated[str | None, typer.Argument()] = None,
    output: Annotated[Format, typer.Option("--output", "-o")] = Format.TABLE,
    label: Labels = None,
) -> None:
    """Show resources: all of a kind, or one."""
    call = invocation(ctx)
    client = call.connect()
    kind = kinds.resolve(client, kind)
    chosen = Format.JSON if call.out.as_json else output
    if name is not None:
        found = client.find(kind, name)
        document = found or client.catalogued(kind, name) or client.get(kind, name)
        if chosen is Format.JSON:
            call.out.document(document)
        elif chosen is Format.YAML or found is None:
            call.out.yaml(document)
        else:
            show(call, [document])
        return
    if kind in _CATALOGUES and not label and chosen is Format.TABLE:
        _CATALOGUES[kind](ctx)
        return
    items = client.resources(kind, labels=label or ())
    if chosen is Format.JSON:
        call.out.document({"items": list(items)})
    elif chosen is Format.YAML:
        call.out.yaml({"items": list(items)})
    else:
        show(call, items)


def show_all(call: Invocation, kind: str, labels: list[str] | None) -> None:
    """Every resource of a kind, with these labels."""
    items = list(call.connect().resources(kind, labels=labels or ()))
    if call.out.as_json:
        call.out.document({"items": items})
    else:
        show(call, items)


def show_one(
    call: Invocation,
    document: Document,
    output: DocumentFormat | None,
    summary: Callable[[Document], Iterable[str]],
) -> None:
    """One resource: its summary, or the document when that is asked for."""
    if call.out.as_json or output is DocumentFormat.JSON:
        call.out.document(document)
    elif output is DocumentFormat.YAML:
        call.out.yaml(document)
    else:
        for line in summary(document):
            call.out.say(line)


def show(call: Invocation, items: Iterable[Document]) -> None:
    """Name, phase, age and message."""
    rows = [
        (item["metadata"]["name"], phase(item), age(item["metadata"].get("created_at")), message(item))
        for item in items
    ]
    call.out.table(("NAME", "PHASE", "AGE", "MESSAGE"), rows)


def phase(document: Document) -> str:
    if document["metadata"].get("deleting"):
        return "Deleting"
    return str((document.get("status") or {}).get("phase") or "")


def message(document: Document) -> str:
    return str((document.get("status") or {}).get("message") or "")
