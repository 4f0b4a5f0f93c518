"""`mw job metrics`, `estimate`, `validate`, `compare`: what jobs use, report and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli import job_tracked, manifests, summary
from modelworks.cli.apply import Files
from modelworks.cli.command import Invocation, invocation, verb
from modelworks.cli.output import Output, money
from modelworks.cli.series_chart import plot, spark
from modelworks.kernel.errors import Invalid
from modelworks.kernel.quantities import format_bytes, format_duration
from modelworks.sdk import jobs
from modelworks.sdk.client import Client, Document
from modelworks.sdk.waiting import status_of

_Code = Annotated[Path | None, typer.Option("--code", help="Folder of the code, of a job that names none.")]
_SHOWN = 20  # samples, when nothing else is asked for


def add(app: typer.Typer) -> None:
    """The commands become part of `mw job`."""
    verb(app, "metrics")(metrics)
    verb(app, "estimate")(estimate)
    verb(app, "validate")(validate)
    verb(app, "compare")(compare)


def metrics(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The job's name.")],
    replica: Annotated[
        int | None, typer.Option("--replica", "--rank", min=0, help="Of this replica; default 0.")
    ] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Usage of this attempt; default the latest.")] = None,
    only: Annotated[list[str] | None, typer.Option("--name", help="Only these values; may be repeated.")] = None,
    samples: Annotated[bool, typer.Option("--samples", help="All samples of what it used, not only the last.")] = False,
    picture: Annotated[Path | None, typer.Option("--plot", help="Draw it into this PNG file.")] = None,
) -> None:
    """Show what a job reported by step, and what it used: CPU cores, memory, GPU and I/O, one sample every 2 s."""
    call = invocation(ctx)
    client = call.connect()
    used = client.job_metrics(name, replica=replica, attempt=attempt)
    reported = client.job_reports(name, replica=replica, names=only or ())
    if picture is not None:
        plot(reported, list(used["items"]), name, picture)
        call.out.note(f"drawn into {picture}")
    if call.out.as_json:
        call.out.document({**used, "reports": reported})
        return
    _progress(call.out, status_of(client.get(jobs.KIND, name)))
    if reported:
        columns = ("VALUE", "STEP", "LAST", "LEAST", "GREATEST")
        call.out.table((*columns, "BY STEP"), [_value(one) for one in reported], right=columns[1:])
    items = used["items"] if samples else used["items"][-_SHOWN:]
    usage = ("AT", "CPU", "MEMORY", "GPU", "READ", "WRITTEN")
    call.out.table(usage, [_sample(item) for item in items], right=usage[1:])


def _value(one: Document) -> tuple[str, ...]:
    points = one["points"]
    amounts = (_short(one[field]) for field in ("last", "least", "greatest"))
    return str(one["name"]), str(points[-1]["step"]), *amounts, spark([point["value"] for point in points])


def _sample(sample: Document) -> tuple[str, ...]:
    amounts = (format_bytes(int(sample.get(field, 0))) for field in ("read", "written"))
    return (
        datetime.fromtimestamp(float(sample["at"]), UTC).strftime("%H:%M:%S"),
        f"{float(sample.get('cpu', 0)):.2f}",
        format_bytes(int(sample.get("memory", 0))),
        f"{float(sample.get('gpu', 0)):.0%}",
        *amounts,
    )


def _progress(out: Output, status: Document) -> None:
    """One line: how far, how fast, what is left; and what to change."""
    if told := summary.progress(status):
        out.say(told)
    for text in status.get("warnings") or ():
        out.note(text)


def estimate(ctx: typer.Context, filename: Files, code: _Code = None) -> None:
    """Say what a job would cost: an hour, at most, and as jobs of the same name did; nothing is stored."""
    call, answer, _ = _validated(ctx, filename, code)
    if call.out.as_json:
        call.out.document(answer["estimate"])
        return
    found = answer["estimate"]
    currency = str(found.get("currency", ""))
    rows = [("an hour", money(found["price_per_hour"], currency))]
    if found.get("on_demand_per_hour") is not None:
        saving = found.get("saving")
        rows.append(("an hour, not on spot", money(found["on_demand_per_hour"], currency)))
        rows.append(("saved by spot", f"{saving:.0%}" if saving is not None else ""))
    if found.get("at_most") is not None:
        limit = "budget" if found["at_most"] == found.get("budget") else "time limit"
        rows.append((f"at most, in its {limit}", money(found["at_most"], currency)))
    if found.get("budget") not in (None, found.get("at_most")):
        rows.append(("its budget", money(found["budget"], currency)))
    if history := found.get("history"):
        took = f"{format_duration(float(history['seconds']))}, {history['jobs']} jobs"
        rows.append((f"as before ({took})", money(history["amount"], currency)))
    call.out.table(("WHAT", "COST"), rows, right=("COST",))


def validate(ctx: typer.Context, filename: Files, code: _Code = None) -> None:
    """Check a job and estimate its cost; nothing is stored."""
    call, answer, source = _validated(ctx, filename, code)
    if call.out.as_json:
        call.out.document(answer)
        return
    call.out.say(f"{source.place}: valid")
    found = answer.get("estimate") or {}
    if found.get("price_per_hour") is not None:
        call.out.say(f"estimate: {money(found['price_per_hour'], found.get('currency', ''))} per hour")


def _validated(ctx: typer.Context, filename: Any, code: Path | None) -> tuple[Invocation, Document, manifests.Source]:
    call = invocation(ctx)
    client = call.connect()
    source = manifests.find_one(manifests.load(filename), jobs.KIND)
    call.out.notes(source.notes)
    if code is not None:
        source = manifests.with_code(source, code)
    (document,) = manifests.prepare(client, [source], send=False)
    try:
        answer = client.validate_job(document)
    except Invalid as error:
        raise manifests.located(error, [source]) from None
    call.out.notes(answer.get("notes") or ())
    return call, answer, source


def compare(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Two jobs or more.", metavar="NAME…")],
    only: Annotated[list[str] | None, typer.Option("--name", help="Draw only these values; may be repeated.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="Draw their values by step into this PNG.")] = None,
) -> None:
    """Compare jobs: hyperparameters that differ, last values (MLflow's too, differing ones first), duration, cost."""
    call = invocation(ctx)
    if len(names) < 2:
        raise Invalid("compare what with what?", remedy="mw job compare A B")
    if only and picture is None:
        raise Invalid("--name chooses what --plot draws", remedy="add --plot FILE.png")
    client = call.connect()
    found = [_account(client, call.out, name) for name in names]
    if picture is not None:
        drawn = {name: _curves(client, name, one["values"], only or ()) for name, one in zip(names, found, strict=True)}
        job_tracked.plot(drawn, picture, only or ())
        call.out.note(f"drawn into {picture}")
    if call.out.as_json:
        call.out.document({"items": found})
        return
    rows = [("phase", *(one["phase"] for one in found))]
    rows += _rows(found, "hyperparameters", differing=True)
    rows += job_tracked.differing_first(_rows(found, "values"))
    rows.append(("last step", *("" if one["step"] is None else str(one["step"]) for one in found)))
    rows.append(("duration", *("" if one["seconds"] is None else format_duration(one["seconds"]) for one in found)))
    rows.append(("cost", *("" if one["cost"] is None else money(one["cost"]) for one in found)))
    call.out.table(("", *names), rows, right=names)


def _curves(client: Client, name: str, values: Mapping[str, Any], only: Sequence[str]) -> list[dict[str, Any]]:
    """What a job reported by step to the platform or, under other names, to MLflow."""
    reported = client.job_reports(name, names=only)
    known = {one["name"] for one in reported}
    others = [value for value in values if value not in known and (not only or value in only)]
    tracked = job_tracked.curves(client, client.get(jobs.KIND, name), others)
    # A single value is no curve, unless somebody asks for it.
    return [*reported, *(one for one in tracked if len(one["points"]) > (0 if only else 1))]


def _account(client: Client, out: Output, name: str) -> dict[str, Any]:
    job = client.get(jobs.KIND, name)
    status = status_of(job)
    begun, ended = (status.get(field) for field in ("started_at", "finished_at"))
    seconds = None
    if begun:
        until = datetime.fromisoformat(ended) if ended else datetime.now(UTC)
        seconds = round((until - datetime.fromisoformat(begun)).total_seconds())
    reported = client.job_reports(name, points=1)
    parameters, metrics, problem = job_tracked.tracked(client, job)
    if problem:
        out.note(problem)
    return {
        "name": name,
        "phase": status.get("phase", ""),
        "hyperparameters": parameters | job["spec"].get("hyperparameters", {}),
        "values": metrics | {one["name"]: one["last"] for one in reported},
        "step": (status.get("progress") or {}).get("step"),
        "seconds": seconds,
        "cost": (status.get("cost") or {}).get("amount"),
    }


def _rows(found: list[dict[str, Any]], field: str, *, differing: bool = False) -> list[tuple[str, ...]]:
    rows = []
    for name in dict.fromkeys(name for one in found for name in one[field]):
        values = [one[field].get(name) for one in found]
        if not differing or any(value != values[0] for value in values):
            rows.append((name, *("" if value is None else _short(value) for value in values)))
    return rows


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
