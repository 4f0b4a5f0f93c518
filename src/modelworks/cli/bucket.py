"""`mw bucket`: buckets and the objects in them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from modelworks.cli.apply import Target, remove
from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.get import show
from modelworks.cli.transfer import bar
from modelworks.kernel.errors import Conflict, Invalid, NotFound
from modelworks.kernel.quantities import format_bytes
from modelworks.objectstore import transfer
from modelworks.objectstore.uri import ObjectUri
from modelworks.sdk.client import Client
from modelworks.sdk.objects import ensure_bucket, open_store, parse_uri

KIND = "Bucket"
app = noun("bucket", "Buckets: upload, download, list objects.")
Uri = Annotated[str, typer.Argument(help="s3://BUCKET/KEY; one that ends with / is a folder.")]


@verb(app, "create")
def create(ctx: typer.Context, name: Annotated[str, typer.Argument()]) -> None:
    """Make a bucket."""
    call = invocation(ctx)
    made = ensure_bucket(call.connect(), name)
    if call.out.as_json:
        call.out.document({"bucket": name, "action": "created" if made else "unchanged"})
    else:
        call.out.say(f"{KIND}/{name} {'created' if made else 'unchanged'}")


@verb(app, "list")
def list_buckets(ctx: typer.Context) -> None:
    """List buckets."""
    call = invocation(ctx)
    items = list(call.connect().resources(KIND))
    if call.out.as_json:
        call.out.document({"items": items})
    else:
        show(call, items)


@verb(app, "ls")
def ls(ctx: typer.Context, uri: Annotated[str, typer.Argument(help="s3://BUCKET/PREFIX")]) -> None:
    """List objects below a prefix."""
    call = invocation(ctx)
    where = _uri(uri)
    store = open_store(call.connect(), read=[str(where)])
    objects = list(store.list(where))
    if call.out.as_json:
        call.out.document(
            {"items": [{"key": o.key, "size": o.size, "etag": o.etag, "modified": o.modified} for o in objects]}
        )
        return
    rows = [(o.key, format_bytes(o.size), _when(o.modified)) for o in objects]
    call.out.table(("KEY", "SIZE", "MODIFIED"), rows, right=("SIZE",))


@verb(app, "upload")
def upload(ctx: typer.Context, source: Annotated[Path, typer.Argument(help="File or folder.")], uri: Uri) -> None:
    """Upload a file, or everything in a folder."""
    call = invocation(ctx)
    if not source.exists():
        raise Invalid(f"there is no file or folder {source}")
    client = call.connect()
    target = _uri(uri)
    files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    if source.is_file() and (not target.key or target.key.endswith("/")):
        target = target / source.name
    store = open_store(client, read=[str(target)], write=[str(target)])
    _check_bucket(client, target)
    size = sum(file.stat().st_size for file in files)
    with bar(str(source), size) as progress:
        if source.is_file():
            transfer.upload(store, source, target, progress)
        else:
            transfer.upload_tree(store, source, target, progress=progress)
    _report(ctx, {"uri": str(target), "files": len(files), "bytes": size}, "uploaded to")


@verb(app, "download")
def download(ctx: typer.Context, uri: Uri, target: Annotated[Path, typer.Argument(help="File or folder.")]) -> None:
    """Download an object, or everything below a folder."""
    call = invocation(ctx)
    source = _uri(uri)
    store = open_store(call.connect(), read=[str(source)])
    if source.key and not source.key.endswith("/") and store.exists(source):
        path = target / Path(source.key).name if target.is_dir() else target
        with bar(source.key, store.head(source).size) as progress:
            transfer.download(store, source, path, progress)
        _report(ctx, {"path": str(path), "files": 1, "bytes": path.stat().st_size}, "downloaded to")
        return
    objects = list(store.list(source))
    if not objects:
        raise NotFound(f"there is nothing at {source}", remedy=f"mw bucket ls s3://{source.bucket}/")
    size = sum(item.size for item in objects)
    with bar(str(source), size) as progress:
        transfer.download_tree(store, source, target, progress=progress)
    _report(ctx, {"path": str(target), "files": len(objects), "bytes": size}, "downloaded to")


@verb(app, "rm")
def rm(
    ctx: typer.Context,
    uri: Uri,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Everything below the prefix.")] = False,
) -> None:
    """Delete an object, or with -r everything below a prefix."""
    call = invocation(ctx)
    where = _uri(uri)
    store = open_store(call.connect(), read=[str(where)], write=[str(where)])
    if recursive:
        keys = [item.key for item in store.list(where)]
        store.delete_prefix(where)
    else:
        if not where.key or where.key.endswith("/"):
            raise Invalid(f"{where} is a folder", remedy=f"mw bucket rm -r {where}")
        if not store.exists(where):
            raise NotFound(f"there is no object {where}")
        keys = [where.key]
        store.delete(where)
    if call.out.as_json:
        call.out.document({"deleted": keys})
    else:
        call.out.say(f"{len(keys)} {'object' if len(keys) == 1 else 'objects'} deleted")


@verb(app, "delete")
def delete_bucket(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument()],
    wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
) -> None:
    """Delete an empty bucket."""
    call = invocation(ctx)
    client, whole = call.connect(), _uri(name)
    _check_bucket(client, whole)
    with contextlib.suppress(NotFound):  # the store has no such bucket: what is declared can go
        if not open_store(client, read=[str(whole)]).is_empty(whole):
            raise Conflict(f"bucket {name} holds objects", remedy=f"delete them first: mw bucket rm -r s3://{name}/")
    remove(call, client, [Target(KIND, name)], wait=wait)


def _uri(text: str) -> ObjectUri:
    return parse_uri(text if "://" in text else f"s3://{text}")


def _check_bucket(client: Client, uri: ObjectUri) -> None:
    if client.find(KIND, uri.bucket) is None:
        raise NotFound(f"there is no bucket {uri.bucket}", remedy=f"mw bucket create {uri.bucket}")


def _report(ctx: typer.Context, facts: dict[str, object], what: str) -> None:
    call = invocation(ctx)
    if call.out.as_json:
        call.out.document(facts)
        return
    count, size = facts["files"], format_bytes(int(str(facts["bytes"])))
    call.out.say(f"{count} {'file' if count == 1 else 'files'}, {size}, {what} {facts.get('uri') or facts.get('path')}")


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")
