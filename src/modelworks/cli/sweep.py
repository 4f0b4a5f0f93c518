"""`mw sweep`: many runs of one job that differ in hyperparameters."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Annotated

import typer

from modelworks.cli.apply import Target, remove
from modelworks.cli.command import invocation, noun, verb
from modelworks.cli.get import Labels, message, phase, show_all
from modelworks.kernel.errors import Conflict, NotFound
from modelworks.sdk import sweeps
from modelworks.sdk.client import Document

app = noun("sweep", "Sweeps: search for the best hyperparameters of a job.")
Name = Annotated[str, typer.Argument(help="The sweep's name.")]


@verb(app, "list")
def list_sweeps(ctx: typer.Context, label: Labels = None) -> None:
    """List sweeps."""
    show_all(invocation(ctx), sweeps.KIND, label)


@verb(app, "get")
def get_sweep(ctx: typer.Context, name: Name) -> None:
    """Show one sweep."""
    call = invocation(ctx)
    sweep = call.connect().get(sweeps.KIND, name)
    call.out.document(sweep) if call.out.as_json else call.out.yaml(sweep)


@verb(app, "wait")
def wait_sweep(ctx: typer.Context, name: Name) -> None:
    """Wait until a sweep ends. Exits 6 when it fails or was stopped."""
    call = invocation(ctx)
    sweep = sweeps.wait(call.connect(), name)
    if call.out.as_json:
        call.out.document(sweep)
    else:
        call.out.say(f"{sweeps.KIND}/{name} {phase(sweep)}: {message(sweep)}")
    sweeps.check(sweep)


@verb(app, "trials")
def trials(
    ctx: typer.Context,
    name: Name,
    by_value: Annotated[bool, typer.Option("--sort", help="The best first, instead of by number.")] = False,
) -> None:
    """List the trials of a sweep with their parameters and values."""
    call = invocation(ctx)
    answer = call.connect().sweep_trials(name)
    items = answer["items"]
    if by_value:
        sign = 1 if answer["goal"] == "minimize" else -1
        items = sorted(items, key=lambda one: (one["state"] != "complete", _rank(one, sign), one["number"]))
    if call.out.as_json:
        call.out.document({**answer, "items": items})
        return
    names = sorted({parameter for one in items for parameter in one["parameters"]})
    rows = [
        (
            one["number"],
            one["state"].capitalize(),
            _short(one["value"]),
            "" if one["step"] is None else one["step"],
            *(_short(one["parameters"].get(parameter)) for parameter in names),
            one["reason"],
        )
        for one in items
    ]
    columns = ("TRIAL", "STATE", answer["metric"].upper(), "STEP", *names, "REASON")
    call.out.table(columns, rows, right=("TRIAL", "STEP"))


@verb(app, "best")
def best(ctx: typer.Context, name: Name) -> None:
    """Show the best trial: its value, its job and its parameters."""
    call = invocation(ctx)
    sweep = call.connect().get(sweeps.KIND, name)
    found = sweeps.best_of(sweep)
    if found is None:
        raise Conflict(f"no trial of {name} is complete yet: {message(sweep)}", remedy=f"mw sweep trials {name}")
    call.out.document(found) if call.out.as_json else call.out.yaml(found)


@verb(app, "importance")
def importance(ctx: typer.Context, name: Name) -> None:
    """Show how much each parameter mattered for the value, as shares that add up to 1."""
    call = invocation(ctx)
    answer = call.connect().sweep_importances(name)
    if call.out.as_json:
        call.out.document(answer)
        return
    if not answer["importances"]:
        said = f"{answer['complete']} trials of {name} are complete, and below {answer['needed']} it would be chance"
        raise Conflict(f"nothing can be said yet of its parameters: {said}", remedy=f"mw sweep trials {name}")
    rows = [(parameter, f"{share:.3f}") for parameter, share in answer["importances"].items()]
    call.out.table(("PARAMETER", "IMPORTANCE"), rows, right=("IMPORTANCE",))


@verb(app, "plot")
def plot(
    ctx: typer.Context,
    name: Name,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A PNG file; default NAME.png.")] = None,
) -> None:
    """Draw a sweep: best value over its trials, values by step, importance of parameters, parameters against values."""
    call = invocation(ctx)
    client = call.connect()
    answer = client.sweep_plot(name)
    if call.out.as_json and output is None:
        call.out.document(answer)
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise NotFound("a plot needs matplotlib", remedy="pip install 'modelworks[plots]', or --json for its data")
    from modelworks.cli.sweep_chart import draw  # noqa: PLC0415 - optional, and slow to import

    path = output or Path(f"{name}.png")
    draw(name, {**answer, **client.sweep_importances(name)}, path)
    call.out.document({"plot": str(path)}) if call.out.as_json else call.out.say(f"plot: {path}")


@verb(app, "stop")
def stop(ctx: typer.Context, name: Name) -> None:
    """End a sweep: its trials are stopped, and no more are begun; its results stay."""
    call = invocation(ctx)
    answer = call.connect().stop_sweep(name)
    call.out.document(answer) if call.out.as_json else call.out.say(f"{sweeps.KIND}/{name} is being stopped")


@verb(app, "delete")
def delete_sweep(ctx: typer.Context, name: Name, wait: Annotated[bool, typer.Option()] = True) -> None:
    """Delete a sweep with its trials and their jobs; their output and checkpoints stay in the object store."""
    call = invocation(ctx)
    remove(call, call.connect(), [Target(sweeps.KIND, name)], wait=wait)


def _rank(trial: Document, sign: int) -> float:
    return math.inf if trial["value"] is None else sign * float(trial["value"])


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
