"""Data, job, model, service: each step makes what is missing and reuses what is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import modelworks
from modelworks.cli import manifests
from modelworks.cli.apply import wait_gone
from modelworks.cli.command import Invocation
from modelworks.cli.job import follow_log
from modelworks.cli.quickstart.digits import Image, as_csv
from modelworks.cli.service import wait_ready
from modelworks.cli.transfer import bar
from modelworks.kernel.errors import NotFound, SetupFailed
from modelworks.sdk import jobs, services
from modelworks.sdk.client import Client, Document
from modelworks.sdk.objects import ensure_bucket, open_store, parse_uri
from modelworks.sdk.waiting import phase_of

NAME = "digits"
_DATA = "s3://digits/train/train.csv"
_STARTUP = 300.0


def example() -> Path:
    """``examples/digits``: in the wheel below the package, in a checkout beside ``src``."""
    package = Path(modelworks.__file__).resolve().parent
    for folder in (package / "examples" / NAME, package.parents[1] / "examples" / NAME):
        if (folder / "job.yaml").is_file():
            return folder
    raise SetupFailed("the files of examples/digits are missing", remedy="install Modelworks again")


def upload_data(call: Invocation, client: Client, training: list[Image]) -> str:
    """The training split in the bucket ``digits``: "uploaded" or "unchanged"."""
    ensure_bucket(client, NAME)
    uri = parse_uri(_DATA)
    store = open_store(client, read=[str(uri)], write=[str(uri)])
    data = as_csv(training)
    if store.exists(uri) and store.get(uri) == data:
        return "unchanged"
    with bar(_DATA, len(data)) as progress:
        store.put(uri, data)
        progress(len(data))
    return "uploaded"


def train(call: Invocation, client: Client) -> tuple[Document, bool]:
    """The succeeded job of ``job.yaml``, and whether it had run before. Raises WorkloadFailed when it fails."""
    source = manifests.find_one(manifests.load([example() / "job.yaml"]), jobs.KIND)
    (manifest,) = manifests.prepare(client, [source])
    name = _job_name(client, manifest)
    manifest["metadata"]["name"] = name
    existing = client.find(jobs.KIND, name)
    if existing is not None and (existing["metadata"].get("deleting") or phase_of(existing) in ("Failed", "Cancelled")):
        if not existing["metadata"].get("deleting"):
            client.delete(jobs.KIND, name)
        wait_gone(call, client, jobs.KIND, name)
        existing = None
    if existing is not None and phase_of(existing) == "Succeeded":
        return existing, True
    (result,) = client.apply([manifest])
    call.out.notes(result.get("notes") or ())
    return jobs.check(follow_log(call, client, name)), False


def register(client: Client, job: Document) -> tuple[Document, bool]:
    """The model's version that came out of this job, and whether it was there."""
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    try:
        versions = client.model_versions(NAME)
    except NotFound:
        versions = []
    for version in versions:
        if (version["lineage"].get("job") or {}).get("uid") == uid:
            return version, True
    return client.register_version(NAME, job=name), False


def deploy(call: Invocation, client: Client, version: int) -> tuple[Document, str]:
    """The ready service of ``service.yaml`` with this version, and what apply did."""
    source = manifests.find_one(manifests.load([example() / "service.yaml"]), services.KIND)
    existing = client.find(services.KIND, NAME)
    if existing is not None and existing["metadata"].get("deleting"):
        wait_gone(call, client, services.KIND, NAME)
        existing = None
    (manifest,) = manifests.prepare(client, [source])
    manifest["spec"]["model"] = f"{NAME}:{version}"
    (result,) = client.apply([manifest])
    call.out.notes(result.get("notes") or ())
    return wait_ready(call, client, NAME, timeout=_STARTUP), str(result["action"])


def _job_name(client: Client, manifest: Document) -> str:
    """``digits``, unless a job of that name ran other code: then one with a digest of what this one is."""
    existing = client.find(jobs.KIND, NAME)
    wanted = manifest["spec"]
    if existing is None or all(existing["spec"].get(key) == wanted.get(key) for key in ("code", "command", "inputs")):
        return NAME
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    return f"{NAME}-{digest[:8]}"
