"""How many replicas a service should have now. Pure."""

from __future__ import annotations

from modelworks.products.serving.record import Record
from modelworks.products.serving.scale import first_replicas
from modelworks.products.serving.spec import ServiceSpec


def wanted_replicas(spec: ServiceSpec, record: Record) -> int:
    """What the autoscaler decided last, within the bounds of now; else what the spec says. 0 for a stopped service."""
    if spec.stopped:
        return 0
    scaling = spec.autoscaling
    if scaling is None:
        return spec.replicas
    return min(max(int(record.scale.get("replicas", first_replicas(scaling))), scaling.min), scaling.max)
