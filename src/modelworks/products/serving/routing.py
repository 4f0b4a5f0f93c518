"""What the gateways are told of a service. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.resource import DEFAULT_WORKSPACE
from modelworks.kernel.run import RunKey, RunObservation
from modelworks.products.serving.record import Record, ServicePhase
from modelworks.products.serving.rollout import View
from modelworks.products.serving.slots import serving


def public_name(workspace: str, name: str) -> str:
    """The service in ``/api/predict/<…>``; its own name in the default workspace."""
    return name if workspace == DEFAULT_WORKSPACE else f"{workspace}.{name}"


def service_path(workspace: str, name: str) -> str:
    return f"/api/predict/{public_name(workspace, name)}"


def active_tokens(tokens: Mapping[str, float | None], now: float) -> list[str]:
    """The digests that open the service now."""
    return sorted(digest for digest, until in tokens.items() if until is None or until > now)


def routed(view: View) -> list[RunObservation]:
    """The replicas that get requests: ready, wanted or not yet replaced, and not on their way out."""
    keep = view.keys | {run.key for run in view.old()}
    found = [run for key, run in view.runs.items() if key in keep and key not in view.draining and serving(run)]
    return sorted(found, key=lambda run: run.key)


def route(view: View, record: Record, tokens: list[str]) -> dict[str, Any]:
    """The document of docs/architecture.md, "Routes"."""
    service, replicas = view.service, routed(view)
    states = {ServicePhase.STOPPED: "stopped", ServicePhase.FAILED: "failed"}
    return {
        "service": public_name(service.workspace, service.name),
        "uid": service.uid,
        "state": "ready" if replicas else states.get(record.phase, "starting"),
        "message": "" if replicas else record.message,
        "token_sha256": tokens,
        "replicas": [_replica(run) for run in replicas],
        "concurrency": service.spec.concurrency,
        "queue_size": service.spec.queue.size,
        "queue_timeout": service.spec.queue.timeout,
        "keepalive": service.spec.keepalive,
        "max_body": service.spec.max_body,
    }


def _replica(run: RunObservation) -> dict[str, Any]:
    key = RunKey.parse(run.key)
    # Two revisions have replicas with the same ordinal while one takes over from the other.
    return {
        "id": f"{key.attempt[:6]}-{key.ordinal}-{key.incarnation}",
        "address": run.address,
        "revision": key.attempt,
    }
