"""`mw service`: endpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli import manifests, releases, summary
from modelworks.cli.apply import Files, Target, remove, submit
from modelworks.cli.apply import label as label_of
from modelworks.cli.command import Invocation, invocation, noun, verb
from modelworks.cli.explain import print_explained
from modelworks.cli.get import Labels, Whole, show_all, show_one
from modelworks.cli.output import log_writer
from modelworks.cli.problems import ExitCode
from modelworks.cli.profile import profile
from modelworks.cli.stress import stress
from modelworks.cli.tasks import tasks
from modelworks.kernel.errors import Invalid
from modelworks.sdk import services
from modelworks.sdk.client import Client, Document
from modelworks.sdk.predictor import Predictor
from modelworks.sdk.session import Session
from modelworks.sdk.waiting import phase_of, status_of

app = noun("service", "Services: deploy, call, start, stop.")
Name = Annotated[str, typer.Argument(help="The service's name.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is ready (or stopped, or gone).")]


@verb(app, "create")
def create(ctx: typer.Context, filename: Files, wait: Wait = False) -> None:
    """Create or change the services of a manifest."""
    call = invocation(ctx)
    client = call.connect()
    sources = manifests.load(filename)
    manifests.find_any(sources, services.KIND)
    results = submit(call, client, sources)
    made = [r["resource"]["metadata"] for r in results if r["resource"]["kind"] == services.KIND]
    for result in results:
        if not call.out.as_json:
            call.out.say(f"{label_of(result['resource'])} {result['action']}")
    ready = [wait_ready(call, client.within(one["workspace"]), one["name"]) for one in made] if wait else []
    if call.out.as_json:
        call.out.document({"results": results, **({"services": ready} if wait else {})})


@verb(app, "list")
def list_services(ctx: typer.Context, label: Labels = None) -> None:
    """List services."""
    show_all(invocation(ctx), services.KIND, label)


@verb(app, "get")
def get_service(ctx: typer.Context, name: Name, output: Whole = None) -> None:
    """Show one service: phase, endpoint, replicas; with -o yaml all that is known of it."""
    call = invocation(ctx)
    client = call.connect()
    service = {**client.get(services.KIND, name), "endpoint": client.service_endpoint(name)}
    show_one(call, service, output, summary.service)


@verb(app, "explain")
def explain(ctx: typer.Context, name: Name) -> None:
    """Show why it has so many replicas: load and targets, queue, last decisions."""
    call = invocation(ctx)
    print_explained(call, call.connect().explain_service(name))


@verb(app, "log")
def log(
    ctx: typer.Context,
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    replica: Annotated[int | None, typer.Option(min=0, help="Of this replica; default 0.")] = None,
    tail: Annotated[int | None, typer.Option(min=0, help="Only so many of the last lines.")] = None,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of its run that ended last.")] = False,
) -> None:
    """Print a replica's log: of the run that lives, else of the one that ended last."""
    call = invocation(ctx)
    print_log(call, call.connect(), name, follow=follow, replica=replica, tail=tail, previous=previous)


@verb(app, "token")
def token(ctx: typer.Context, name: Name) -> None:
    """Print the service's token."""
    call = invocation(ctx)
    _print_token(call, name, call.connect().service_token(name))


@verb(app, "rotate-token")
def rotate_token(ctx: typer.Context, name: Name) -> None:
    """Make a new token; the old one stops working."""
    call = invocation(ctx)
    _print_token(call, name, services.rotate_token(call.connect(), name))


@verb(app, "start")
def start(ctx: typer.Context, name: Name, wait: Wait = False) -> None:
    """Start a stopped service."""
    call = invocation(ctx)
    client = call.connect()
    answer = client.start_service(name)
    if wait:
        answer = wait_ready(call, client, name)
    already = phase_of(answer) in ("Running", "Degraded", "Idle")
    _done(call, answer, name, "runs" if wait else "runs already" if already else "is starting")


@verb(app, "stop")
def stop(ctx: typer.Context, name: Name, wait: Wait = False) -> None:
    """Stop a service; it keeps its name, token and settings."""
    call = invocation(ctx)
    client = call.connect()
    answer = client.stop_service(name)
    if wait:
        answer = services.wait_ready(client, name, phases=("Stopped",))
    done = wait or (phase_of(answer) == "Stopped" and status_of(answer).get("message") == "stopped")
    _done(call, answer, name, "is stopped" if done else "is stopping")


verb(app, "update")(releases.update)
verb(app, "rollback")(releases.rollback)
verb(app, "resume")(releases.resume)
verb(app, "revisions")(releases.revisions)
verb(app, "tasks")(tasks)


@verb(app, "delete")
def delete_service(ctx: typer.Context, name: Name, wait: Wait = True) -> None:
    """Delete a service; its model stays."""
    call = invocation(ctx)
    remove(call, call.connect(), [Target(services.KIND, name)], wait=wait)


@verb(app, "call")
def call_service(
    ctx: typer.Context,
    name: Name,
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body; @FILE reads a file, @- stdin.")] = None,
    path: Annotated[str, typer.Option(help="Below the endpoint, such as v1/chat/completions.")] = "",
    method: Annotated[str | None, typer.Option("--method", "-X", help="Default POST with a body, else GET.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 600.0,
) -> None:
    """Send one request through the gateway and print the answer. Exits 1 when it is an error."""
    call = invocation(ctx)
    body = _body(data)
    client = call.connect()
    predictor = Predictor(name, session=Session.of(client))
    headers = {"Content-Type": "application/json"} if body is not None and _is_json(body) else {}
    verb_name = (method or ("GET" if body is None else "POST")).upper()
    answer = predictor.raw_predict(body, path or None, headers, verb_name, timeout)
    if call.out.as_json:
        text = answer.content.decode(errors="replace")
        content: Any = json.loads(text) if _is_json(answer.content) else text
        call.out.document({"status": answer.status_code, "headers": answer.headers, "body": content})
    else:
        sys.stdout.buffer.write(answer.content)
        if sys.stdout.isatty() and not answer.content.endswith(b"\n"):
            sys.stdout.write("\n")
        sys.stdout.flush()
    if answer.status_code in (404, 405) and body is None and method is None:
        call.out.note(f"without -d this was a GET; `mw service call {name} -d '{{…}}'` sends a prediction")
    if answer.status_code >= 400:
        raise typer.Exit(ExitCode.FAILED)


verb(app, "stress")(stress)
verb(app, "profile")(profile)


def wait_ready(call: Invocation, client: Client, name: str, timeout: float | None = None) -> Document:
    """Wait until a service runs, telling what it waits for. Raises WorkloadFailed."""
    told = ""

    def tell(service: Document) -> None:
        nonlocal told
        text = str(status_of(service).get("message") or "")
        if text not in ("", told):
            told = text
            call.out.note(f"{name}: {text}")

    try:
        return services.check_ready(services.wait_ready(client, name, on_change=tell, timeout=timeout))
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nservice {name} goes on; `mw service get {name}` shows it, `mw service stop {name}` ends it\n"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def print_log(
    call: Invocation,
    client: Client,
    name: str,
    *,
    follow: bool,
    replica: int | None,
    tail: int | None = None,
    previous: bool = False,
) -> None:
    """``tail`` lines of what was said, and with ``follow`` what comes after them."""
    client.get(services.KIND, name)
    with log_writer(call.out) as write:
        offset = 0
        if tail is not None:
            said = b"".join(client.service_log(name, replica=replica, previous=previous))
            offset = len(said)
            write(last_lines(said, tail))
            if not follow:
                return
        for chunk in client.service_log(name, replica=replica, follow=follow, offset=offset, previous=previous):
            write(chunk)


def last_lines(text: bytes, count: int) -> bytes:
    """The last lines, of which one without an end is one too."""
    lines = text.splitlines(keepends=True)
    return b"".join(lines[-count:]) if count else b""


def _print_token(call: Invocation, name: str, token: str) -> None:
    if call.out.as_json:
        call.out.document({"service": name, "token": token})
    else:
        sys.stdout.write(token + "\n")


def _done(call: Invocation, answer: Document, name: str, what: str) -> None:
    if call.out.as_json:
        call.out.document(answer)
    else:
        call.out.say(f"{services.KIND}/{name} {what}")


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data == "@-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_bytes()
        except OSError as error:
            raise Invalid(f"{data[1:]} cannot be read: {error.strerror}") from None
    return data.encode()


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
