"""Why a service has so many replicas: the autoscaler's numbers now, its last decisions, and the queue."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from modelworks.db import scale
from modelworks.kernel.errors import ModelworksError
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import RunObservation
from modelworks.kernel.spec import Spec
from modelworks.kernel.traffic import Traffic
from modelworks.products.context import Context, ContextOf, NamePath, WorkspaceOf
from modelworks.products.named import named
from modelworks.products.serving.autoscale import look
from modelworks.products.serving.engines import ReplicaNow, replicas_now
from modelworks.products.serving.observe import Observed
from modelworks.products.serving.record import Record
from modelworks.products.serving.scale import ScaleReason
from modelworks.products.serving.spec import ServiceSpec
from modelworks.products.serving.wanted import wanted_replicas

_routes = APIRouter(prefix="/services", tags=["services"])
_SECONDS = 60.0  # that rates and percentiles are of
_DECISIONS = 10


def router() -> APIRouter:
    return _routes


class Metric(Spec):
    """One metric of the autoscaler: of all replicas (``total``) and each (``current``); null while it is not known."""

    metric: str
    target: float
    total: float | None
    current: float | None


class QueueDocument(Spec):
    """What the gateways say now, and what they counted in the last ``seconds``. Times are in seconds.

    ``known`` is false while not every gateway reports; numbers are then of those that do.
    """

    known: bool
    in_flight: int
    queued: int
    oldest: float
    seconds: float
    arrived_per_second: float | None
    error_rate: float | None
    p50: float | None
    p99: float | None
    rejected: dict[str, int]


class ScaleDocument(Spec):
    """A decision of the autoscaler. ``numbers`` are what it was made from, ``numbers.why`` says it in words."""

    at: datetime
    before: int
    after: int
    reason: ScaleReason
    numbers: dict[str, Any]


class Explained(Spec):
    """``why`` says what holds the number of replicas, or moves it."""

    service: str
    phase: str
    message: str
    autoscaled: bool
    wanted: int
    ready: int
    min: int | None
    max: int | None
    why: str
    metrics: list[Metric]
    queue: QueueDocument
    decisions: list[ScaleDocument] = Field(description="The newest first.")
    alerts: list[str]
    replicas: list[ReplicaNow] = Field(description="Those that are ready.")


@_routes.get("/{name}/explain", summary="Why so many replicas", operation_id="explainService")
def explain(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> Explained:
    """Replicas, metrics and targets, what nothing moves for, the queue, and the last decisions."""
    with context.engine.connect() as connection:
        service = named(connection, "Service", workspace, name)
        decisions = scale.latest(connection, service.uid, _DECISIONS)
    now = time.time()
    traffic = context.traffic(service.uid)
    return explained(service, traffic, observed_runs(context, f"{service.uid}/"), decisions, now)


def explained(
    service: Resource,
    traffic: Traffic,
    runs: tuple[RunObservation, ...],
    decisions: tuple[scale.ScaleDecision, ...],
    now: float,
) -> Explained:
    """The document, from what is known at ``now`` (Unix seconds)."""
    spec, record = ServiceSpec.parse(service.spec, at="spec"), Record.of(service.status)
    scaling = spec.autoscaling
    found = look(spec, service.resolved, record, Observed(runs=runs, traffic=traffic), now)
    if found is not None:
        why = found.scaled.why
    elif spec.stopped:
        why = "it is stopped"
    else:
        why = "it is not autoscaled: spec.replicas says how many"
    conditions = service.status.get("conditions", ())
    return Explained(
        service=service.ref.name,
        phase=str(record.phase),
        message=record.message,
        autoscaled=scaling is not None,
        wanted=wanted_replicas(spec, record),
        ready=record.ready,
        min=scaling.min if scaling else None,
        max=scaling.max if scaling else None,
        why=why,
        metrics=[Metric.parse(one.document(found.current)) for one in found.readings] if found else [],
        queue=_queue(traffic, now),
        decisions=[
            ScaleDocument(
                at=d.at, before=d.before, after=d.after, reason=ScaleReason(d.reason), numbers=dict(d.numbers)
            )
            for d in decisions
        ],
        replicas=replicas_now(runs),
        alerts=[_told(one) for one in conditions if one["type"] != "Ready" and one["status"] == "True"],
    )


def _told(condition: Mapping[str, Any]) -> str:
    return f"{condition['type']}: {condition['message']}"


def _queue(traffic: Traffic, now: float) -> QueueDocument:
    known = traffic.known(now)
    last, lately = traffic.last, (traffic if known else traffic.heard()).increase(_SECONDS, now)
    counts = lately.all if lately is not None else None
    return QueueDocument(
        known=known,
        in_flight=last.in_flight if last else 0,
        queued=last.queued if last else 0,
        oldest=last.oldest if last else 0.0,
        seconds=round(lately.seconds, 1) if lately else 0.0,
        arrived_per_second=_rounded(lately.rate) if lately else None,
        error_rate=_rounded(counts.error_rate) if counts else None,
        p50=_rounded(counts.percentile(0.5)) if counts else None,
        p99=_rounded(counts.percentile(0.99)) if counts else None,
        rejected=dict(lately.refusals) if lately else {},
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def observed_runs(context: Context, prefix: str) -> tuple[RunObservation, ...]:
    """Of the nodes that answer: CPU and GPU are not known of the others."""
    found: list[RunObservation] = []
    for name in context.runtimes:
        try:
            found += context.runtimes[name].observe(prefix)
        except ModelworksError:
            continue
    return tuple(found)
