"""`mw apply`, `mw diff`, `mw delete`: what should be, from files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from modelworks.cli import kinds, manifests
from modelworks.cli.command import Invocation, invocation
from modelworks.kernel.errors import Conflict, Invalid, ModelworksError, NotFound
from modelworks.kernel.resource import DEFAULT_WORKSPACE
from modelworks.sdk.client import Client, Document
from modelworks.sdk.waiting import until


class Target(NamedTuple):
    """What is deleted; ``workspace`` is the command's unless a manifest names its own."""

    kind: str
    name: str
    workspace: str | None = None


Files = Annotated[list[Path], typer.Option("--filename", "-f", help="File, folder, or - for standard input.")]


def submit(
    call: Invocation, client: Client, sources: Sequence[manifests.Source], *, dry_run: bool = False
) -> list[Document]:
    """Apply and print the notes; errors are told with file, document and field."""
    for source in sources:
        call.out.notes(source.notes)
    documents = manifests.prepare(client, sources, send=not dry_run)
    try:
        results = client.apply(documents, dry_run=dry_run)
    except ModelworksError as error:
        raise manifests.located(error, sources) from None
    for result in results:
        call.out.notes(result.get("notes") or ())
    return results


def apply(ctx: typer.Context, filename: Files) -> None:
    """Create or change resources; a second apply of the same files changes nothing."""
    call = invocation(ctx)
    results = submit(call, call.connect(), manifests.load(filename))
    if call.out.as_json:
        call.out.document({"results": results})
        return
    for result in results:
        call.out.say(f"{label(result['resource'])} {result['action']}")


def diff(ctx: typer.Context, filename: Files) -> None:
    """Show what apply would change. Exits 0 whether or not something would."""
    call = invocation(ctx)
    results = submit(call, call.connect(), manifests.load(filename), dry_run=True)
    if call.out.as_json:
        call.out.document({"results": results})
        return
    for result in results:
        call.out.say(f"{label(result['resource'])} {'would be ' * (result['action'] != 'unchanged')}{result['action']}")
        for change in result.get("changes") or ():
            call.out.say(f"  {change['path']}: {_value(change.get('before'))} → {_value(change.get('after'))}")


def delete(
    ctx: typer.Context,
    kind: Annotated[str | None, typer.Argument(help="Such as job, service, bucket.")] = None,
    name: Annotated[str | None, typer.Argument()] = None,
    filename: Annotated[list[Path] | None, typer.Option("--filename", "-f", help="Delete what these declare.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
    ignore_missing: Annotated[bool, typer.Option("--ignore-missing", help="What is not there is no error.")] = False,
) -> None:
    """Delete a resource, or everything that files declare (last first)."""
    call = invocation(ctx)
    client = call.connect()
    if filename:
        if kind is not None:
            raise Invalid("give either KIND NAME or -f")
        targets = [_target(source) for source in reversed(manifests.load(filename))]
    elif kind is not None and name is not None:
        targets = [Target(kinds.resolve(client, kind), name)]
    else:
        raise Invalid("what should be deleted?", remedy="mw delete KIND NAME, or mw delete -f FILE")
    remove(call, client, targets, wait=wait, ignore_missing=ignore_missing)


def remove(
    call: Invocation, client: Client, targets: Sequence[Target], *, wait: bool, ignore_missing: bool = False
) -> None:
    """Delete and say what stays."""
    done = []
    for kind, name, workspace in targets:
        there = client.within(workspace or client.workspace)
        try:
            answer = there.delete(kind, name)
        except NotFound:
            if there.catalogued(kind, name) is not None:
                raise Conflict(f"{kind} {name} is shipped, or of config.yaml: it cannot be deleted here") from None
            if not ignore_missing:
                raise
            continue
        call.out.notes(answer.get("notes") or ())
        if wait:
            wait_gone(call, there, kind, name, told=_message(answer.get("resource") or {}))
        done.append({"kind": kind, "name": name, "workspace": there.workspace})
        if not call.out.as_json:
            call.out.say(f"{_label(there.workspace, kind, name)} {'deleted' if wait else 'is being deleted'}")
    if call.out.as_json:
        call.out.document({"deleted": done})


def wait_gone(call: Invocation, client: Client, kind: str, name: str, *, told: str = "") -> None:
    """Wait until a resource is gone, telling what it waits for when that changes; ``told`` is known already."""

    def tell(document: Document) -> None:
        nonlocal told
        message = _message(document)
        if document["metadata"].get("deleting") and message and message != told:
            told = message
            call.out.note(f"{kind}/{name}: {message}")

    with contextlib.suppress(NotFound):  # what is waited for
        until(client, kind, name, lambda _: False, on_change=tell)


def _message(document: Document) -> str:
    return str((document.get("status") or {}).get("message") or "")


def label(resource: Document) -> str:
    metadata = resource["metadata"]
    return _label(metadata.get("workspace", DEFAULT_WORKSPACE), resource["kind"], metadata["name"])


def _label(workspace: str, kind: str, name: str) -> str:
    return f"{'' if workspace == DEFAULT_WORKSPACE else f'{workspace}/'}{kind}/{name}"


def _target(source: manifests.Source) -> Target:
    document = source.document
    metadata = document.get("metadata")
    if not document.get("kind") or not isinstance(metadata, dict) or not metadata.get("name"):
        raise Invalid(f"{source.place}: kind and metadata.name are needed")
    workspace = metadata.get("workspace")
    return Target(str(document["kind"]), str(metadata["name"]), str(workspace) if workspace else None)


def _value(value: Any) -> str:
    text = "(none)" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
