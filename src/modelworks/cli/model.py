"""`mw model`: registered models, their versions and aliases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli.apply import Target, remove
from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.compile import compile_model
from modelworks.cli.output import age
from modelworks.kernel.errors import Invalid, NotFound
from modelworks.kernel.quantities import format_bytes
from modelworks.sdk.client import Client
from modelworks.sdk.model import upload_model

KIND = "Model"
app = noun("model", "Models: register versions, name them by aliases.")
Name = Annotated[str, typer.Argument(help="The model's name.")]


@verb(app, "register")
def register(
    ctx: typer.Context,
    name: Name,
    job: Annotated[str | None, typer.Option(help="Out of this job's output.")] = None,
    uri: Annotated[str | None, typer.Option(help="Out of this s3:// folder, or a local file or folder.")] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="name=value; repeat.")] = None,
    description: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Register a new version; the model is made when it is not there."""
    call = invocation(ctx)
    if (job is None) == (uri is None):
        raise Invalid("give either --job or --uri")
    metrics = dict(_metric(text) for text in metric or ())
    client = call.connect()
    if uri is not None and not uri.startswith(("s3://", "oss://")):
        if not Path(uri).exists():
            raise Invalid(f"there is no file or folder {uri}")
        uri = upload_model(client, Path(uri))
    version = client.register_version(name, uri=uri, job=job, metrics=metrics, description=description)
    if call.out.as_json:
        call.out.document(version)
    else:
        call.out.say(f"{name}:{version['version']} registered, {format_bytes(int(version.get('size') or 0))}")


@verb(app, "list")
def list_models(ctx: typer.Context) -> None:
    """List models."""
    call = invocation(ctx)
    items = list(call.connect().resources(KIND))
    if call.out.as_json:
        call.out.document({"items": items})
        return
    rows = [
        (
            item["metadata"]["name"],
            _aliases(item),
            age(item["metadata"].get("created_at")),
            item["spec"].get("description"),
        )
        for item in items
    ]
    call.out.table(("NAME", "ALIASES", "AGE", "DESCRIPTION"), rows)


@verb(app, "get")
def get_model(ctx: typer.Context, name: Name) -> None:
    """Show a model's versions; NAME:VERSION or NAME@ALIAS shows one with its files and lineage."""
    call = invocation(ctx)
    client = call.connect()
    name, sign, version = _split(name)
    if sign:
        document = client.model_version(name, _aliased(client, name, version) if sign == "@" else version)
        if call.out.as_json:
            call.out.document(document)
        else:
            call.out.yaml(document)
        return
    versions = client.model_versions(name)
    if call.out.as_json:
        call.out.document({"model": client.get(KIND, name), "versions": versions})
        return
    rows = [
        (
            f"{name}:{item['version']}",
            ", ".join(item.get("aliases") or ()),
            format_bytes(int(item.get("size") or 0)),
            str(item.get("digest") or "").removeprefix("sha256:")[:12],
            age(item.get("created_at")),
            ((item.get("lineage") or {}).get("job") or {}).get("name", ""),
            ", ".join(
                f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in (item.get("metrics") or {}).items()
            ),
        )
        for item in versions
    ]
    call.out.table(("VERSION", "ALIASES", "SIZE", "DIGEST", "AGE", "JOB", "METRICS"), rows, right=("SIZE",))


@verb(app, "alias")
def alias(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(help="NAME:VERSION, or NAME with --remove.")],
    alias: Annotated[str, typer.Argument(help="Such as prod.")],
    remove_it: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
) -> None:
    """Name a version: `mw model alias digits:2 prod`."""
    call = invocation(ctx)
    client = call.connect()
    name, _, version = reference.partition(":")
    if remove_it:
        client.delete_alias(name, alias)
    elif version.isdigit():
        client.set_alias(name, alias, int(version))
    else:
        raise Invalid(f"which version of {name} should be {alias}?", remedy=f"mw model alias {name}:1 {alias}")
    if call.out.as_json:
        call.out.document(client.get(KIND, name))
    else:
        call.out.say(f"{name}@{alias} " + ("removed" if remove_it else f"is version {version}"))


@verb(app, "delete")
def delete_model(ctx: typer.Context, name: Name, wait: Annotated[bool, typer.Option()] = True) -> None:
    """Delete a model and its versions; refused while a service uses one."""
    call = invocation(ctx)
    if ":" in name:
        raise NotFound("single versions are not deleted", remedy=f"mw model delete {name.partition(':')[0]}")
    remove(call, call.connect(), [Target(KIND, name)], wait=wait)


verb(app, "compile")(compile_model)


def _split(reference: str) -> tuple[str, str, str]:
    """``digits:1`` → ``digits``, ``:``, ``1``; the same with ``@``."""
    sign = "@" if "@" in reference else ":"
    return reference.partition(sign)


def _aliased(client: Client, name: str, alias: str) -> int:
    aliases = client.get(KIND, name)["spec"].get("aliases") or {}
    if alias not in aliases:
        raise NotFound(f"the model {name} has no alias {alias!r}", remedy=f"mw model get {name}")
    return int(aliases[alias])


def _metric(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Invalid(f"not a metric: {text!r}; write it as accuracy=0.97")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _aliases(item: dict[str, Any]) -> str:
    return ", ".join(f"{alias}={version}" for alias, version in (item["spec"].get("aliases") or {}).items())
