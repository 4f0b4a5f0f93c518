"""`mw service update|rollback|revisions|resume`: other versions of a service that runs."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from modelworks.cli.command import Invocation, invocation
from modelworks.cli.output import age
from modelworks.kernel.errors import Conflict, Invalid
from modelworks.sdk import changes, services
from modelworks.sdk.client import Client, Document
from modelworks.sdk.waiting import status_of

Name = Annotated[str, typer.Argument(help="The service's name.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has settled.")]
_DIGEST, _DIGITS = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}"), r"\1…"


def update(
    ctx: typer.Context,
    name: Name,
    model: Annotated[str | None, typer.Option(help="Serve this model: name:version, name@alias or s3://…/.")] = None,
    image: Annotated[str | None, typer.Option(help="Run in this image.")] = None,
    replicas: Annotated[int | None, typer.Option(min=0, help="So many replicas; 0 stops it.")] = None,
    least: Annotated[int | None, typer.Option("--min", min=0, help="Scale by load, down to so many.")] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="Scale by load, up to so many.")] = None,
    canary_model: Annotated[str | None, typer.Option(help="Try this model beside the one that serves.")] = None,
    canary_image: Annotated[str | None, typer.Option(help="Try this image beside the one that serves.")] = None,
    canary_weight: Annotated[
        int | None, typer.Option(min=0, max=100, help="Percent of the requests; 100 promotes, 0 takes it back.")
    ] = None,
    canary_mirror: Annotated[
        int | None, typer.Option(min=0, max=100, help="Percent of the others that it gets a copy of.")
    ] = None,
    canary_replicas: Annotated[int | None, typer.Option(min=1, help="Default: its weight's share.")] = None,
    wait: Wait = False,
) -> None:
    """Change a service, or try a new model or image on a share of its requests."""
    call = invocation(ctx)
    client = call.connect()
    own: dict[str, Any] = {"model": model, "image": image, "replicas": replicas, "least": least, "most": most}
    canary: dict[str, Any] = {
        "model": canary_model,
        "image": canary_image,
        "weight": canary_weight,
        "mirror": canary_mirror,
        "replicas": canary_replicas,
    }
    own, canary = _given(own), _given(canary)
    if not own and not canary:
        raise Invalid("what should be changed?", remedy=f"mw service update {name} --canary-model NAME:2")
    answer: Document = {}
    if own:
        applied = changes.change(client, name, lambda spec: changes.with_fields(spec, **own))
        call.out.notes(applied.get("notes") or ())
        answer = applied["resource"]
    if canary:
        answer = services.update_canary(client, name, **canary)
    _settle(call, client, answer, name, _told(canary), wait)


def rollback(
    ctx: typer.Context,
    name: Name,
    to: Annotated[str | None, typer.Option(help="A revision or its number; default: the one before.")] = None,
    wait: Wait = False,
) -> None:
    """Go back to an earlier revision; replicas and limits stay."""
    call = invocation(ctx)
    client = call.connect()
    _settle(call, client, services.rollback(client, name, to), name, "goes back", wait)


def resume(ctx: typer.Context, name: Name, wait: Wait = False) -> None:
    """Try again a revision or canary that was taken back by itself."""
    call = invocation(ctx)
    client = call.connect()
    if not status_of(client.get(services.KIND, name)).get("reversed"):
        raise Conflict(f"nothing of the service {name} was taken back", remedy=f"mw service revisions {name}")
    _settle(call, client, client.resume_service(name), name, "tries again", wait)


def revisions(ctx: typer.Context, name: Name) -> None:
    """List the revisions of a service, the newest first."""
    call = invocation(ctx)
    found = services.revisions(call.connect(), name)
    if call.out.as_json:
        call.out.document({"items": found})
        return
    rows = [(one["number"], one["revision"], _state(one), age(one["created_at"]), _what(one["what"])) for one in found]
    call.out.table(("NUMBER", "REVISION", "STATE", "AGE", "WHAT"), rows, right=("NUMBER",))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _told(canary: dict[str, Any]) -> str:
    match canary.get("weight"):
        case 100:
            return "canary is promoted"
        case 0 if len(canary) == 1:
            return "canary is taken back"
        case _:
            return "canary updated" if canary else "updated"


def _settle(call: Invocation, client: Client, answer: Document, name: str, said: str, wait: bool) -> None:
    if wait:
        # Here, since `mw service` holds these verbs.
        from modelworks.cli.service import wait_ready  # noqa: PLC0415

        answer = wait_ready(call, client, name)
    if call.out.as_json:
        call.out.document(answer)
    else:
        call.out.say(f"{services.KIND}/{name} {said}")


def _state(revision: Document) -> str:
    words = [word for word in ("current", "canary", "serves") if revision.get(word)]
    return ", ".join([*words, *(["reversed"] if revision.get("reversed") else [])])


def _what(what: dict[str, Any]) -> str:
    """Digests, of packed code for one, as short as they can still be told apart."""
    return " ".join(f"{key}={_DIGEST.sub(_DIGITS, str(value))}" for key, value in what.items())
