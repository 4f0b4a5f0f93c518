"""What the gateways are told of a service. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from modelworks.kernel.resource import DEFAULT_WORKSPACE
from modelworks.kernel.run import RunKey, RunObservation
from modelworks.products.serving.hung import replica_id
from modelworks.products.serving.plan import Plan
from modelworks.products.serving.queries import KnownToken
from modelworks.products.serving.record import Record, ServicePhase
from modelworks.products.serving.rollout import View
from modelworks.products.serving.runs import Service
from modelworks.products.serving.slots import serving
from modelworks.products.serving.spec import ServiceSpec


def public_name(workspace: str, name: str) -> str:
    """The service in ``/api/predict/<…>``; its own name in the default workspace."""
    return name if workspace == DEFAULT_WORKSPACE else f"{workspace}.{name}"


def service_path(workspace: str, name: str) -> str:
    return f"/api/predict/{public_name(workspace, name)}"


def active_tokens(tokens: Mapping[str, KnownToken], now: float) -> dict[str, KnownToken]:
    """Those that open the service now."""
    return {digest: tokens[digest] for digest in sorted(tokens) if (tokens[digest].until or math.inf) > now}


def routed(view: View) -> list[RunObservation]:
    """The replicas that get requests: ready, wanted or not yet replaced, and not on their way out."""
    keep = view.keys | {run.key for run in view.old()}
    stopping = {replica.key for replica in view.replicas if replica.slot.stopping}
    found = [
        run
        for key, run in view.runs.items()
        if key in keep and key not in view.draining and key not in stopping and serving(run)
    ]
    return sorted(found, key=lambda run: run.key)


def route(
    plan: Plan, stable: View, canary: View | None, record: Record, tokens: Mapping[str, KnownToken]
) -> dict[str, Any]:
    """The document of docs/architecture.md, "Routes"."""
    service, spec = plan.declared, plan.declared.spec
    own, beside = routed(stable), routed(canary) if canary else []
    replicas = [*(_replica(stable, run) for run in own), *(_replica(canary, run) for run in beside if canary)]
    failed = "starting" if _returns(spec, stable) else "failed"
    states = {ServicePhase.STOPPED: "stopped", ServicePhase.FAILED: failed, ServicePhase.IDLE: "idle"}
    mirror = plan.canary is not None and plan.mirror
    return {
        "service": public_name(service.workspace, service.name),
        "uid": service.uid,
        "state": "ready" if replicas else states.get(record.phase, "starting"),
        "message": "" if replicas else record.message,
        "token_sha256": list(tokens),
        "token_sealed": [token.sealed for token in tokens.values() if token.sealed],
        "replicas": replicas,
        "concurrency": spec.places,
        "queue_size": spec.queue.places,
        "queue_grows": spec.queue.size is None,
        "queue_timeout": spec.queue.timeout,
        "keepalive": spec.keepalive,
        "max_body": spec.max_body,
        # A model may take as long to load as its health check is waited for.
        "hold": spec.readiness.startup,
        "weights": weights(plan, own),
        "sticky_header": spec.traffic.sticky_header,
        "mirror": {"revision": plan.canary.revision, "percent": plan.mirror} if mirror and plan.canary else None,
        "hang_timeout": spec.hang_timeout,
        "rate_limit": spec.rate_limit,
        "concurrency_limit": spec.concurrency_limit,
        "tasks": False if spec.tasks is None else spec.tasks.model_dump(),
        "capture": _capture(service),
    }


def _returns(spec: ServiceSpec, view: View) -> bool:
    """Whether a replica has failed for the first time that served, or that was started for the load: it is back in a
    moment, and who calls waits for it rather than be refused. Of a service that comes from zero none has served yet."""
    return any((slot.served or spec.autoscaling is not None) and slot.failures <= 1 for slot in view.slots)


def weights(plan: Plan, own: Sequence[RunObservation]) -> dict[str, int]:
    """Percent by revision; nothing without a canary. While the stable revision is being replaced, old and new share
    what the canary leaves, each by its ready replicas."""
    if plan.canary is None:
        return {}
    counts = Counter(RunKey.parse(run.key).attempt for run in own) or Counter({plan.stable.revision: 1})
    total, rest = counts.total(), 100 - plan.weight
    shares = {name: rest * count // total for name, count in counts.items()}
    # What whole percents leave over goes to those that lost most by it.
    by_loss = sorted(counts, key=lambda name: (-(rest * counts[name] % total), name))
    for name in by_loss[: rest - sum(shares.values())]:
        shares[name] += 1
    return {**dict(sorted(shares.items())), plan.canary.revision: plan.weight}


def _capture(service: Service) -> dict[str, Any] | None:
    capture = service.spec.capture
    if capture is None:
        return None
    uri = service.resolved.get("capture", capture.uri)
    return {"uri": uri, "percent": capture.percent, "max_body": capture.max_body}


def _replica(view: View, run: RunObservation) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": replica_id(run.key),
        "address": run.address,
        "revision": RunKey.parse(run.key).attempt,
    }
    if not str(run.address).startswith("unix:"):
        document["run"] = run.key  # its node's relay wants the secret that follows from it
    slot = next((replica.slot for replica in view.replicas if replica.key == run.key), None)
    if slot is not None and slot.halvings:
        document |= {"limit": max(view.service.spec.places >> slot.halvings, 1), "slow": True}
    return document
