"""`mw model compile`: a faster version of a model, measured beside the original."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from modelworks.cli.command import Invocation, invocation
from modelworks.cli.job import follow_log
from modelworks.kernel.errors import WorkloadFailed
from modelworks.sdk import compilation, jobs
from modelworks.sdk.client import Document
from modelworks.sdk.waiting import status_of


class Engine(StrEnum):
    ONNX = "onnx"
    OPENVINO = "openvino"
    AUTO = "auto"


class Precision(StrEnum):
    FP32 = "fp32"
    INT8 = "int8"
    AUTO = "auto"


class Task(StrEnum):
    CLASSIFICATION = "classification"
    REGRESSION = "regression"


def compile_model(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="NAME:VERSION, NAME@ALIAS, or NAME for the latest.")],
    to: Annotated[Engine, typer.Option(help="ONNX Runtime, OpenVINO, or what measures faster.")] = Engine.AUTO,
    precision: Annotated[
        Precision, typer.Option(help="auto: INT8 when it is faster and as accurate.")
    ] = Precision.FP32,
    calibrate: Annotated[str | None, typer.Option(help="Real inputs: s3://… or a path; .npy, .npz, .csv.")] = None,
    labels: Annotated[str | None, typer.Option(help="Their labels (.npy), when they hold none.")] = None,
    entry: Annotated[str | None, typer.Option(help="file.py:function that returns (torch module, example).")] = None,
    task: Annotated[Task | None, typer.Option(help="How outputs are compared; default by their shape.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a result that is less accurate.")] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="The bound of the batch dimension.")] = 64,
    environment: Annotated[str | None, typer.Option(help="Of the job; default compile or compile-torch.")] = None,
    instance_type: Annotated[str, typer.Option(help="Of the job: measure where you will serve.")] = "local.medium",
    name: Annotated[str | None, typer.Option(help="Register as a version of this model instead.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait, and register the new version.")] = True,
) -> None:
    """Export a model to ONNX, optimise and quantise it, measure all, and register the best as a new version."""
    call = invocation(ctx)
    client = call.connect()
    wish = compilation.Compilation(
        model, to=to, precision=precision, calibrate=calibrate, labels=labels, entry=entry, task=task, force=force,
        max_batch=max_batch, environment=environment, instance_type=instance_type,
    )  # fmt: skip
    job = compilation.submit(client, wish)
    job_name = job["metadata"]["name"]
    if not wait:
        _submitted(call, job, name or model.partition(":")[0].partition("@")[0])
        return
    call.out.note(f"job {job_name} compiles {job['spec']['hyperparameters']['from']}")
    ended = follow_log(call, client, job_name)
    _check(ended)
    version, report = compilation.register(client, ended, name)
    if call.out.as_json:
        call.out.document({"job": job_name, "version": version, "report": report})
        return
    call.out.say(f"{version['model']}:{version['version']} registered: {version['description']}")


def _submitted(call: Invocation, job: Document, model: str) -> None:
    name = job["metadata"]["name"]
    if call.out.as_json:
        call.out.document({"job": name})
        return
    call.out.say(f"{jobs.KIND}/{name} created; when it has succeeded: mw model register {model} --job {name}")


def _check(job: Document) -> None:
    """The compiler ends with one line that says why: that is the message. Raises WorkloadFailed."""
    status = status_of(job)
    last = [str(line) for line in status.get("last_lines") or ()]
    told = next((line.removeprefix("error: ") for line in reversed(last) if line.startswith("error: ")), None)
    if status.get("phase") == "Failed" and told is not None:
        raise WorkloadFailed(told, remedy=f"mw job log {job['metadata']['name']}")
    jobs.check(job)
