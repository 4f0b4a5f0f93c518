"""Registering: files become an immutable version of a model.

The files are first copied to ``s3://mw-<workspace>/models/<name>/<digest>/``, and then the version is stored with the
next number, in one transaction. The place is named by the content, not by the number: whoever is killed in between
leaves nothing but files that the next attempt uses, and two at once never write different things to one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from modelworks.db import events, resources
from modelworks.kernel.errors import Conflict, FieldError, Invalid
from modelworks.kernel.quantities import format_bytes
from modelworks.kernel.resource import Ref, Resource
from modelworks.objectstore import buckets
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.context import Context
from modelworks.products.mounts import MODELS, workspace_bucket
from modelworks.products.registry import queries
from modelworks.products.registry.queries import ModelVersion
from modelworks.products.registry.source import copy_files, read_base_model, read_metrics, read_source
from modelworks.products.registry.spec import ModelSpec


@dataclass(frozen=True)
class Candidate:
    """What should become a version: the files at ``uri``, which ``path`` of the request named."""

    uri: ObjectUri
    path: str
    description: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)


def register(context: Context, workspace: str, model: str, candidate: Candidate) -> ModelVersion:
    """A new version of a model, which is made when it is not there. Raises Invalid, Conflict, Unavailable."""
    client = ObjectClient(context.credentials)
    source = read_source(client, candidate.uri, candidate.path)
    metrics = {**read_metrics(client, source), **candidate.metrics}
    base = read_base_model(client, source)
    bucket = workspace_bucket(workspace)
    buckets.create(context.credentials(), bucket)
    target = ObjectUri(bucket, f"{MODELS}{model}/{source.digest.removeprefix('sha256:')[:32]}/")
    copy_files(client, source, target)
    with context.engine.begin() as connection:
        resource = _locked_model(connection, Ref(workspace, "Model", model))
        version = queries.add_version(
            connection,
            workspace,
            model,
            uri=str(target),
            digest=source.digest,
            size=source.size,
            files=source.files,
            metrics=metrics,
            lineage={**candidate.lineage, **({"base_model": base} if base else {})},
            description=candidate.description,
        )
        told = f"version {version.version}, {format_bytes(version.size)} in {len(version.files)} files"
        events.append(connection, resource.ref, resource.uid, "Registered", told, data={"version": version.version})
        resources.wake(connection, [resource.uid])
    return version


def job_candidate(
    connection: Connection, workspace: str, job: str, description: str, metrics: Mapping[str, float]
) -> Candidate:
    """The committed output of a job, with where it came from. Raises Invalid at ``job``, or Conflict."""
    found = resources.get(connection, Ref(workspace, "TrainingJob", job))
    if found is None:
        said = f"no training job is called {job!r}"
        raise Invalid(said, fields=(FieldError("job", said),), remedy="`mw job list` shows them")
    outputs = found.status.get("outputs") or ()
    if found.status.get("phase") != "Succeeded" or not outputs:
        phase = found.status.get("phase") or "Queued"
        raise Conflict(
            f"the job {job} has committed no output: it is {phase}",
            remedy="only a job that succeeded can be registered; `mw job wait` waits for that",
            fields=(FieldError("job", f"is {phase}"),),
        )
    uri = ObjectUri.parse(outputs[0]["uri"])
    return Candidate(uri, "job", description, metrics, _lineage(found, outputs[0]))


def _locked_model(connection: Connection, ref: Ref) -> Resource:
    spec = ModelSpec().dump()
    made = resources.insert_new(connection, ref, spec, {}, {})
    if made is not None:
        events.append(connection, ref, made.uid, "Created", "created with its first version", data={"generation": 1})
        return made
    found = resources.lock(connection, ref)
    if found is None or found.deleting is not None:
        raise Conflict(f"the model {ref.name} is being deleted", remedy="wait until it is gone, or use another name")
    return found


def _lineage(job: Resource, output: Mapping[str, Any]) -> dict[str, Any]:
    """Where a version came from: the job's attempt, its code, data, environment and parameters."""
    resolved, status = job.resolved, job.status
    lineage = {
        "job": {
            "name": job.ref.name,
            "uid": job.uid,
            "generation": job.generation,
            "attempt": status.get("attempt"),
            "output": dict(output),
        },
        "code": resolved.get("code"),
        "code_digest": resolved.get("code_digest"),
        "inputs": resolved.get("inputs"),
        "environment": (resolved.get("environment") or {}).get("digest"),
        "command": job.spec.get("command"),
        "hyperparameters": job.spec.get("hyperparameters"),
    }
    return {key: value for key, value in lineage.items() if value not in (None, {})}
