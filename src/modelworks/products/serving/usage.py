"""HTTP of what a service's replicas use: samples of the node, beside what they may use."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict

from modelworks.kernel.errors import NotFound, Unavailable
from modelworks.kernel.spec import Spec
from modelworks.products.context import Context, ContextOf, NamePath, WorkspaceOf
from modelworks.products.named import named
from modelworks.products.serving.facade import SERVICE

_routes = APIRouter(prefix="/services", tags=["services"])


def router() -> APIRouter:
    return _routes


class UsageSample(Spec):
    """``at`` (Unix seconds), ``cpu`` (cores), ``memory`` (bytes) and more, as the node measured them."""

    model_config = ConfigDict(extra="allow")

    at: float


class ReplicaUsage(Spec):
    """Samples of one replica, oldest first; ``memory_limit`` in bytes."""

    key: str
    revision: str
    ready: bool
    memory_limit: int
    items: list[UsageSample]


class Usage(Spec):
    """Of every replica that runs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "key": "0192f3a0-4c1d/1f0c9a2b/0/0",
                            "revision": "1f0c9a2b",
                            "ready": True,
                            "memory_limit": 2147483648,
                            "items": [{"at": 1767225600.0, "cpu": 0.42, "memory": 187695104}],
                        }
                    ]
                }
            ]
        }
    )

    items: list[ReplicaUsage]


@_routes.get("/{name}/usage", summary="CPU and memory of a service's replicas", operation_id="getServiceUsage")
def usage(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> Usage:
    """One sample each two seconds, as long as the node keeps it."""
    with context.engine.connect() as connection:
        service = named(connection, SERVICE.name, workspace, name)
    limit = int((service.resolved.get("resources") or {}).get("memory", 0))
    return Usage(
        items=[
            ReplicaUsage(
                key=str(replica["key"]),
                revision=str(replica["revision"]),
                ready=bool(replica["ready"]),
                memory_limit=limit,
                items=[UsageSample.parse(sample) for sample in _samples(context, str(replica["key"]))],
            )
            for replica in service.status.get("replicas", ())
        ]
    )


def _samples(context: Context, key: str) -> list[Any]:
    for runtime in context.holders(key):
        try:
            return list(runtime.metrics(key))
        except (NotFound, Unavailable):
            continue
    return []
