"""`mw job`: training jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from modelworks.cli import flags, job_accounts, manifests, queue, summary
from modelworks.cli.apply import Files, Target, remove, submit
from modelworks.cli.apply import label as label_of
from modelworks.cli.command import Invocation, invocation, noun, verb
from modelworks.cli.flags import FlagCommand
from modelworks.cli.get import Labels, Whole, message, show_all, show_one
from modelworks.cli.imports import from_flags
from modelworks.cli.moments import moment_of
from modelworks.cli.output import log_writer, shown
from modelworks.cli.problems import ExitCode
from modelworks.kernel.errors import Invalid
from modelworks.sdk import jobs, local
from modelworks.sdk.client import Client, Document
from modelworks.sdk.text import Utf8Writer
from modelworks.sdk.waiting import status_of

app = noun("job", "Training jobs: submit, follow, cancel.")
Name = Annotated[str, typer.Argument(help="The job's name.")]
job_accounts.add(app)


@app.command("submit", cls=FlagCommand)
def submit_job(
    ctx: typer.Context,
    kind: Annotated[
        str | None, typer.Argument(help="Without a file: pytorchjob, tfjob, mpijob, elasticbatchjob, trainingjob.")
    ] = None,
    filename: Annotated[
        list[Path] | None, typer.Option("--filename", "-f", help="File, folder, or - for standard input.")
    ] = None,
    code: Annotated[Path | None, typer.Option(help="Folder of the code, of jobs that name none.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the log until the job ends.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job ends.")] = False,
) -> None:
    """Submit the jobs of a manifest, or one by flags. With --follow or --wait the exit code is 6 when one fails."""
    call, sources = _sources(ctx, kind, filename, code)
    client = call.connect()
    manifests.find_any(sources, jobs.KIND)
    results = submit(call, client, sources)
    made = [r["resource"]["metadata"] for r in results if r["resource"]["kind"] == jobs.KIND]
    for result in results:
        if not call.out.as_json:
            call.out.say(f"{label_of(result['resource'])} {result['action']}")
        if result["action"] == "unchanged" and jobs.ended(job := result["resource"]):
            name, phase = job["metadata"]["name"], status_of(job)["phase"]
            say = f"job {name} has ended before ({phase}) and does not run again"
            call.out.note(f"{say}: give it another name, or delete it first (mw job delete {name})")
    attended = made if follow or wait else []
    finished = [_attend(call, client.within(job["workspace"]), job["name"], follow) for job in attended]
    if call.out.as_json:
        call.out.document({"results": results, **({"jobs": finished} if finished else {})})
    for job in finished:
        jobs.check(job)


def _sources(
    ctx: typer.Context, kind: str | None, filename: list[Path] | None, code: Path | None
) -> tuple[Invocation, list[manifests.Source]]:
    """The manifests of files, or the one that the flags make."""
    call, (found, notes) = invocation(ctx), flags.given(ctx)
    call.out.notes(notes)
    call = replace(call, workspace=found.pop("workspace_id", call.workspace))
    if filename:
        if kind or found:
            raise Invalid("give either -f, or a kind of job and its flags")
        sources = manifests.load(filename)
    elif kind is None:
        raise Invalid(
            "what should be submitted?", remedy="mw job submit -f job.yaml, or mw job submit pytorchjob --help"
        )
    else:
        document, told = from_flags(kind, found)
        sources = [manifests.Source(document, "the command line", 1, 1, told)]
    return call, [manifests.with_code(source, code) for source in sources] if code else sources


@verb(app, "run")
def run_job(
    ctx: typer.Context,
    filename: Files,
    here: Annotated[bool, typer.Option("--local", help="Run here, without the platform.")] = False,
    directory: Annotated[Path | None, typer.Option(help="With --local: where its folders are made.")] = None,
) -> None:
    """Run a job to its end: on the platform, following its log, or with --local on this machine alone."""
    if not here:
        submit_job(ctx, filename=filename, follow=True, wait=True)
        return
    source = manifests.find_one(manifests.load(filename), jobs.KIND)
    document = {**source.document, "spec": dict(source.document.get("spec") or {})}
    folder = document["spec"].get("code")
    if isinstance(folder, str) and "://" not in folder:
        document["spec"]["code"] = str(source.folder / Path(folder).expanduser())
    call = invocation(ctx)
    call.out.notes(source.notes)
    output = local.run(
        document, output=str(directory) if directory else None, log=sys.stderr if call.out.as_json else None
    )
    if call.out.as_json:
        call.out.document({"output": str(output)})
    else:
        call.out.say(f"output: {output}")


@verb(app, "list")
def list_jobs(ctx: typer.Context, label: Labels = None) -> None:
    """List jobs."""
    show_all(invocation(ctx), jobs.KIND, label)


@verb(app, "queue")
def list_queue(ctx: typer.Context) -> None:
    """List what waits for room, in the order in which it is considered."""
    queue.show(invocation(ctx))


@verb(app, "get")
def get_job(ctx: typer.Context, name: Name, output: Whole = None) -> None:
    """Show one job: how it goes, why, and what it costs; with -o yaml all that is known of it."""
    call = invocation(ctx)
    client = call.connect()
    job = client.get(jobs.KIND, name)
    if status_of(job).get("phase") == "Queued":
        job |= queue.place_of(client, name)
    show_one(call, job, output, summary.job)


@verb(app, "log")
def log(
    ctx: typer.Context,
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Of this attempt; default: all.")] = None,
    replica: Annotated[
        int | None, typer.Option("--replica", "--rank", min=0, help="Of this replica; default 0.")
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Of all replicas, each line after its [rank].")] = False,
    grep: Annotated[str | None, typer.Option(help="Only lines with this text.")] = None,
    ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i", help="Of --grep.")] = False,
    since: Annotated[str | None, typer.Option(help="Only what came since, such as 10m or 2026-01-31T12:00.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Every byte: progress bars with all that they ever showed.")
    ] = False,
) -> None:
    """Print a job's log, or what is looked for in it."""
    call = invocation(ctx)
    client = call.connect()
    if everyone or grep or since:
        if everyone and replica is not None:
            raise Invalid("give either --all or --replica")
        if raw:
            raise Invalid("--raw is for the whole log of one replica", remedy="leave out --all, --grep and --since")
        client.get(jobs.KIND, name)
        moment = None if since is None else moment_of(since)
        lines = client.job_lines(
            name,
            replica=None if everyone else replica or 0,
            follow=follow,
            attempt=attempt,
            grep=grep,
            ignore_case=ignore_case,
            since=moment,
        )
        with log_writer(call.out) as write:
            for chunk in lines:
                write(chunk)
        return
    if follow and attempt is None:
        print_followed_log(call, client, name, replica, raw=raw)
        return
    client.get(jobs.KIND, name)
    with log_writer(call.out) as out, shown(out, raw=raw, follow=follow) as write:
        for chunk in client.job_log(name, follow=follow, attempt=attempt, replica=replica):
            write(chunk)


@verb(app, "wait")
def wait_job(ctx: typer.Context, name: Name) -> None:
    """Wait until a job ends. Exits 6 when it fails."""
    call = invocation(ctx)
    client = call.connect()
    job = _attend(call, client, name, follow=False)
    if call.out.as_json:
        call.out.document(job)
    jobs.check(job)


@verb(app, "cancel")
def cancel(ctx: typer.Context, name: Name) -> None:
    """Stop a job; it ends as Cancelled and keeps what it has put out."""
    call = invocation(ctx)
    answer = call.connect().cancel_job(name)
    if call.out.as_json:
        call.out.document(answer)
    else:
        call.out.say(f"{jobs.KIND}/{name} is being cancelled")


@verb(app, "preempt")
def preempt(
    ctx: typer.Context,
    name: Name,
    notice: Annotated[
        str | None, typer.Option("--notice", help="Time to save and end, such as 30s; default: the job's own.")
    ] = None,
) -> None:
    """End the running attempt as if its machine were taken away; another goes on from its checkpoint."""
    call = invocation(ctx)
    answer = call.connect().preempt_job(name, notice)
    if call.out.as_json:
        call.out.document(answer)
    else:
        call.out.say(f"{jobs.KIND}/{name} is being preempted")


@verb(app, "delete")
def delete_job(ctx: typer.Context, name: Name, wait: Annotated[bool, typer.Option()] = True) -> None:
    """Delete a job, its runs and its log; its output and checkpoints stay in the object store."""
    call = invocation(ctx)
    remove(call, call.connect(), [Target(jobs.KIND, name)], wait=wait)


@verb(app, "stacks")
def stacks(
    ctx: typer.Context,
    name: Name,
    replica: Annotated[int | None, typer.Option(min=0, help="Of this replica; default: all.")] = None,
) -> None:
    """Show what every process of a job does now, or did when the job stalled."""
    call = invocation(ctx)
    answer = call.connect().job_stacks(name, replica=replica)
    if call.out.as_json:
        call.out.document(answer)
        return
    if not answer["live"]:
        call.out.note(f"{name} runs no more; this was taken when it stalled")
    for item in answer["items"]:
        call.out.say(f"replica {item['replica']} on node {item['node']}, attempt {item['attempt']}, at {item['at']}")
        call.out.say("\n".join(f"  {line}" for line in str(item["stacks"]).splitlines()))


def waits_told(call: Invocation, prefix: str = "") -> Callable[[Document], None]:
    """Prints as a note what a job waits for, whenever that changes."""
    return jobs.tell_waits(lambda text: call.out.note(f"{prefix}{text}"))


def print_followed_log(call: Invocation, client: Client, name: str, replica: int | None, *, raw: bool = False) -> None:
    """A job's log to its end, which is all that is printed."""
    with log_writer(call.out) as out, shown(out, raw=raw, follow=True) as write:
        follow_log(call, client, name, replica, write=write)


def follow_log(
    call: Invocation,
    client: Client,
    name: str,
    replica: int | None = None,
    *,
    write: Callable[[bytes], None] | None = None,
) -> Document:
    """Follow a job's log to its end, on stdout (stderr with --json). Ctrl-C detaches: the job goes on."""
    write = write or Utf8Writer(sys.stderr if call.out.as_json else sys.stdout)
    try:
        return jobs.follow(client, name, write, on_change=waits_told(call), replica=replica)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\njob {name} goes on; come back with `mw job log {name} -f`, end it with `mw job cancel {name}`\n"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _attend(call: Invocation, client: Client, name: str, follow: bool) -> Document:
    if follow:
        job = follow_log(call, client, name)
    else:
        job = jobs.wait(client, name, on_change=waits_told(call, f"{name}: "))
    if not call.out.as_json:
        call.out.say(f"{jobs.KIND}/{name} {status_of(job).get('phase', '')}: {message(job)}")
    return job
