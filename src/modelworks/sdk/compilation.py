"""Compiling a model version: a job that exports, quantises and measures, and a new version out of what it made."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.kernel.errors import Invalid, NotFound
from modelworks.sdk import jobs
from modelworks.sdk.client import Client, Document
from modelworks.sdk.model import RegisteredModel, upload_model
from modelworks.sdk.objects import open_store, parse_uri
from modelworks.sdk.session import Session

REPORT = "compile.json"
ENVIRONMENT, WITH_TORCH = "compile", "compile-torch"
_REMOTE = ("s3://", "oss://")


@dataclass(frozen=True)
class Compilation:
    """What ``mw model compile`` is told. ``calibrate`` and ``labels`` are a local path or an ``s3://`` URI."""

    model: str
    to: str = "auto"
    precision: str = "fp32"
    calibrate: str | None = None
    labels: str | None = None
    entry: str | None = None
    task: str | None = None
    force: bool = False
    max_batch: int = 64
    environment: str | None = None
    instance_type: str = "local.medium"


def submit(client: Client, wish: Compilation) -> Document:
    """Start the job. Raises Invalid, NotFound; a model that cannot be compiled is the job's failure."""
    if wish.precision == "int8" and wish.calibrate is None:
        raise Invalid(
            "INT8 needs a sample of real inputs to find its ranges by",
            remedy="--calibrate FILE.npz, a folder of such files, or s3://…",
        )
    version = version_of(client, wish.model)
    reference = f"{version['model']}:{version['version']}"
    inputs = {"model": str(version["uri"])}
    arguments = [
        "--name",
        reference,
        "--to",
        wish.to,
        "--precision",
        wish.precision,
        "--max-batch",
        str(wish.max_batch),
    ]
    for option, given in (("calibrate", wish.calibrate), ("labels", wish.labels)):
        if given is not None:
            inputs[option] = _remote(client, given)
            arguments += [f"--{option}", f"/mnt/{option}"]
    for option, text in (("--entry", wish.entry), ("--task", wish.task)):
        arguments += [option, text] if text is not None else []
    arguments += ["--force"] if wish.force else []
    name = f"compile-{version['model']}-{version['version']}"[:52].strip("-.") + f"-{secrets.token_hex(3)}"
    spec = {
        "command": ["python", "-m", "modelworks.compile", "/mnt/model", "/mnt/output", *arguments],
        "environment": wish.environment or _environment(version, wish.entry),
        "instance_type": wish.instance_type,
        "inputs": inputs,
        # They stand in the lineage of the version that comes of it.
        "hyperparameters": {"from": reference, "to": wish.to, "precision": wish.precision},
    }
    labels = {"modelworks/compiles": str(version["model"])}
    manifest = {
        "kind": jobs.KIND,
        "metadata": {"name": name, "workspace": client.workspace, "labels": labels},
        "spec": spec,
    }
    (applied,) = client.apply([manifest])
    return dict(applied["resource"])


def register(client: Client, job: Document, name: str | None = None) -> tuple[Document, dict[str, Any]]:
    """The new version of a job that succeeded, and the report. ``name``: of another model than the source."""
    source = str(job["spec"]["hyperparameters"]["from"])
    report = read_report(client, job)
    speedup = f"{report['speedup'][report['chosen']]:.1f}x {report['baseline']}"
    description = f"compiled from {source}: {report['precision']} for {report['engine']}, {speedup}"
    made = client.register_version(
        name or source.partition(":")[0], job=job["metadata"]["name"], description=description
    )
    return made, report


def read_report(client: Client, job: Document) -> dict[str, Any]:
    """What the job measured. Raises NotFound when it has put out none."""
    output = jobs.output_uri(job)
    if output is None:
        raise NotFound(f"the job {job['metadata']['name']} has put out nothing")
    store = open_store(client, read=[output])
    found: dict[str, Any] = json.loads(store.get(parse_uri(output.rstrip("/") + "/") / REPORT))
    return found


def version_of(client: Client, reference: str) -> Document:
    """``digits:1``, ``digits@prod``, or ``digits`` for the latest. Raises NotFound."""
    sign = "@" if "@" in reference else ":"
    name, _, version = reference.partition(sign)
    return RegisteredModel(name, version or None, session=Session.of(client)).describe()


def _environment(version: Mapping[str, Any], entry: str | None) -> str:
    files = [str(file["path"]) for file in version.get("files") or ()]
    torch = entry is not None or (
        any(path.endswith(".pt2") for path in files) and not any(path.endswith(".onnx") for path in files)
    )
    return WITH_TORCH if torch else ENVIRONMENT


def _remote(client: Client, given: str) -> str:
    """Where a job reads it: a local file or folder is uploaded, named by its content."""
    if given.startswith(_REMOTE):
        return given
    path = Path(given).expanduser()
    if not path.exists():
        raise Invalid(f"there is no file or folder {given}")
    return upload_model(client, path)
