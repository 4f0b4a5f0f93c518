"""Examples of the OpenAPI document, one a schema: what the kinds' own example manifests become. Pure.

The answers of an operation are shown by the example of their schema, so that nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks import __version__
from modelworks.kernel.errors import (
    Conflict,
    FieldError,
    Forbidden,
    Invalid,
    LimitExceeded,
    ModelworksError,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from modelworks.kernel.spec import Spec
from modelworks.products.kind import Kind

Json = dict[str, Any]

_UID = "0b7c2f6e5d1a4c3b"
_CREATED, _LATER = "2026-01-31T09:00:00Z", "2026-01-31T09:01:30Z"
_DIGEST = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SHAPE = {"cpu": "1", "memory": 2 << 30, "gpu": 0, "gpu_model": None, "gpu_memory": None}

STREAMS: Mapping[str, Any] = {
    "text/plain": "epoch 1: loss 0.31\nepoch 2: loss 0.12\n",
    "text/event-stream": {
        "event": "resource",
        "id": "7",
        "data": '{"kind":"TrainingJob","metadata":{"name":"digits"}}',
    },
}

_ERRORS: Mapping[int, ModelworksError] = {
    401: Unauthorized("the API key is not known", remedy="mw login URL --key KEY"),
    403: Forbidden("the key ci may only read"),
    404: NotFound("there is no TrainingJob digits in workspace default", remedy="`mw job list` shows those there are"),
    409: Conflict("the job digits has ended: Succeeded", remedy="`mw job delete digits` removes it"),
    413: TooLarge("the body has more than 4194304 bytes"),
    422: Invalid(
        "the spec is not valid", fields=(FieldError("spec.replicas", "Input should be greater than or equal to 0"),)
    ),
    429: LimitExceeded("too many requests wait", retry_after=1.0),
    500: ModelworksError("the platform failed at this request"),
    503: Unavailable("the database cannot be reached", retry_after=1.0),
}


def problem(status: int, description: str) -> Json:
    """What an operation may answer with ``status``; ``description`` is its detail where no error stands for it."""
    if status in _ERRORS:
        found = _ERRORS[status].problem()
        return found | {"request_id": "5f2b8c1e9a7d4c30"} if status == 500 else found
    codes = {400: ("bad-request", "Bad request"), 405: ("method-not-allowed", "Method not allowed")}
    code, title = codes[status]
    kind = f"https://modelworks.dev/problems/{code}"
    return {"type": kind, "title": title, "status": status, "detail": description, "code": code}


def requests(kinds: Mapping[str, Kind]) -> dict[str, Json]:
    """Bodies of ``apply``: one a kind, named after it."""
    return {
        kind.name: {"summary": f"A {kind.name}", "value": {"manifests": [kind.example], "dry_run": True}}
        for kind in kinds.values()
    }


def resource(kind: Kind) -> Json:
    """What the kind's example manifest is once it is stored and done."""
    example = kind.example
    metadata = {
        "workspace": "default",
        "labels": {},
        "uid": _UID,
        "generation": 1,
        "created_at": _CREATED,
        "updated_at": _LATER,
        "deleting": None,
    }
    return {
        **example,
        "metadata": {**metadata, **example["metadata"]},
        "resolved": {"instance_type": "local.small", "resources": _SHAPE, "price_per_hour": 0.05},
        "status": {"phase": "Succeeded", "message": "finished in 1m30s", "observed_generation": 1},
    }


def answers(kinds: Mapping[str, Kind]) -> dict[str, Json]:
    """Schema name → an example of it."""
    job = next(iter(kinds.values()))
    document = resource(job)
    change = {"path": "spec.time_limit", "before": "30m", "after": "1h"}
    applied = {"action": "updated", "changes": [change], "notes": [], "resource": document}
    return {
        "ResourceDocument": document,
        "ResourcePage": {"items": [document], "next_cursor": None},
        "ApplyResults": {"results": [applied]},
        "DeletionDocument": {"resource": document, "notes": ["the volume scratch stays"]},
        "KindList": {"items": [_kind(job)]},
        "EventPage": {"items": [_event(job)], "cursor": "812.41"},
        "Validation": {
            "spec": job.example["spec"],
            "resolved": document["resolved"],
            "estimate": {"price_per_hour": 0.05, "currency": "USD", "at_most": 0.05},
            "notes": ["at most 0.05 USD in its time limit of 1h"],
        },
        **_platform(),
        **_services(),
        **_registry(job),
        **_money(),
        **_capacity(),
    }


def _kind(kind: Kind) -> Json:
    return {
        "name": kind.name,
        "plural": kind.plural,
        "short": list(kind.short),
        "description": " ".join((kind.spec.__doc__ or "").split()),
        "json_schema": Spec.model_json_schema(),
        "example": kind.example,
    }


def _event(kind: Kind) -> Json:
    name = kind.example["metadata"]["name"]
    return {
        "seq": 41,
        "at": _LATER,
        "workspace": "default",
        "kind": kind.name,
        "name": name,
        "uid": _UID,
        "reason": "Succeeded",
        "message": "finished in 1m30s",
        "level": "normal",
        "data": {},
    }


_NODE: Json = {
    "name": "laptop",
    "capacity": {**_SHAPE, "cpu": "8", "memory": 16 << 30},
    "labels": {"zone": "home"},
    "taints": [],
    "isolation": True,
    "isolation_note": "",
    "notes": [],
    "cordoned": False,
    "drain_by": None,
    "drain_reason": "",
    "seen_at": _LATER,
    "away_at": None,
}


def _capacity() -> dict[str, Json]:
    """Nodes, the queue and quotas."""
    workload = {"workspace": "default", "kind": "TrainingJob", "name": "digits", "key": f"{_UID}/a1/0/0"}
    node = {
        **_NODE,
        "used_cpu": 1.0,
        "used_memory": 2 << 30,
        "used_gpu": 0,
        "claims": 1,
        "workloads": [{**workload, "priority": 0, "leaves_by": None}],
    }
    waiting = {
        "position": 3,
        "kind": "TrainingJob",
        "name": "digits",
        "priority": 0,
        "replicas": 1,
        "waited": 12.5,
        "behind": "TrainingJob faces",
        "reason": "waits for the quota vision of workspace default: needs 1 CPU, 8 CPU of 8 CPU are in use",
    }
    use = {"limit": "instance:local.gpu", "used": 3, "most": 4, "text": "3 × local.gpu of 4 × local.gpu"}
    spend = {"per": "month", "spent": 212.4, "most": 500.0, "until": "2026-02-01T00:00:00Z"}
    return {
        "NodeDetail": node,
        "NodeList": {"items": [node]},
        "WaitingList": {"items": [waiting], "length": 12},
        "QuotaList": {
            "items": [{"name": "vision", "workspace": "default", "limits": [use], "spend": spend}],
            "currency": "USD",
        },
    }


def _platform() -> dict[str, Json]:
    key = {"name": "ci", "workspace": "default", "read_only": False}
    made = {**key, "created_at": _CREATED}
    return {
        "HealthDocument": {"status": "ok", "version": __version__},
        "StatusDocument": {
            "version": __version__,
            "url": "http://127.0.0.1:8700",
            "s3_url": "http://127.0.0.1:8733",
            "nodes": [_NODE],
            "isolation": True,
            "counts": {"TrainingJob": {"Succeeded": 3}, "Service": {"Running": 1}},
        },
        "PrincipalDocument": key,
        "KeyList": {"items": [made]},
        "NewKeyDocument": {**made, "key": "mw_RkFLRS1LRVktT0YtVEhFLURPQ1M"},
        "Credentials": {
            "endpoint": "http://127.0.0.1:8733",
            "region": "us-east-1",
            "access_key_id": "ASIAEXAMPLE",
            "secret_access_key": "example",
            "session_token": "example",
            "expires_at": 1769853600.0,
        },
        "Metrics": {
            "replica": 0,
            "attempt": 1,
            "items": [{"at": 1769850000.0, "cpu": 0.97, "memory": 268435456}],
        },
    }


def _services() -> dict[str, Json]:
    """What is told of services besides their documents."""
    return {
        "Token": {"token": "RkFLRS1UT0tFTi1PRi1USEUtRE9DUw", "path": "/api/predict/digits"},
        "Explained": {
            "service": "digits",
            "phase": "Running",
            "message": "2 of 2 replicas ready",
            "autoscaled": True,
            "wanted": 2,
            "ready": 2,
            "min": 1,
            "max": 10,
            "why": "what there is is what is wanted, within the tolerance",
            "metrics": [{"metric": "concurrency", "target": 8.0, "total": 15.2, "current": 7.6}],
            "queue": {
                "known": True,
                "in_flight": 15,
                "queued": 0,
                "oldest": 0.0,
                "arrived_per_second": 148.2,
                "seconds": 60.0,
                "error_rate": 0.0,
                "p50": 0.021,
                "p99": 0.094,
                "rejected": {"limit-exceeded": 0},
            },
            "decisions": [
                {
                    "at": _LATER,
                    "before": 1,
                    "after": 2,
                    "reason": "Load",
                    "numbers": {"ready": 1, "in_flight": 14, "queued": 0, "why": "the load asks for 2"},
                }
            ],
            "alerts": [],
            "replicas": [{"replica": "1f0c9a-0-0", "usage": {"cpu": 0.42, "memory": 187695104.0}, "notes": []}],
        },
        "Revisions": {
            "items": [
                {
                    "revision": "1f3a22c09b7d",
                    "number": 2,
                    "created_at": _LATER,
                    "what": {"processor": "onnx", "model": "digits:2"},
                    "current": True,
                    "canary": False,
                    "serves": True,
                    "reversed": None,
                }
            ]
        },
    }


def _registry(job: Kind) -> dict[str, Json]:
    name = job.example["metadata"]["name"]
    version = {
        "workspace": "default",
        "model": name,
        "version": 1,
        "uri": f"s3://mw-default/models/{name}/9f86d081884c7d65/",
        "digest": _DIGEST,
        "size": 51_200,
        "files": [{"path": "model.onnx", "size": 51_200, "digest": _DIGEST}],
        "metrics": {"accuracy": 0.97},
        "lineage": {"job": name},
        "description": "first training",
        "created_at": _LATER,
        "aliases": ["prod"],
    }
    return {
        "Version": version,
        "Versions": {"items": [version], "next_cursor": None},
        "Aliases": {"model": name, "aliases": {"prod": 1}},
    }


def _money() -> dict[str, Json]:
    line = {"workspace": "default", "kind": "TrainingJob", "name": "digits", "item": "local.small", "unit": "instance"}
    shape = {
        "name": "local.small",
        "resources": _SHAPE,
        "price_per_hour": 0.05,
        "description": "",
        "gpu_bandwidth": None,
    }
    environment = {
        "name": "python-data",
        "digest": _DIGEST.removeprefix("sha256:"),
        "requirements": ["numpy", "scikit-learn"],
        "python": None,
        "image": None,
        "description": "Tables, arrays and classical models",
    }
    return {
        "Cost": {
            "items": [{**line, "quantity_hours": 0.025, "amount": 0.00125}],
            "total": 0.00125,
            "currency": "USD",
            "since": None,
            "until": "2026-02-01T00:00:00Z",
        },
        "InstanceTypes": {"items": [shape], "currency": "USD"},
        "Environments": {"items": [environment]},
    }
