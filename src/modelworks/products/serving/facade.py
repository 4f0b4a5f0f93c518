"""What other products and the controller use of serving."""

from __future__ import annotations

from modelworks.products.kind import Kind
from modelworks.products.serving.decide import decide
from modelworks.products.serving.observe import observe
from modelworks.products.serving.record import ServicePhase
from modelworks.products.serving.resolve import resolve
from modelworks.products.serving.routing import service_path
from modelworks.products.serving.spec import ServiceSpec

SERVICE = Kind(
    name="Service",
    plural="services",
    spec=ServiceSpec,
    short=("svc",),
    resolve=resolve,
    observe=observe,
    decide=decide,
    example={
        "apiVersion": "modelworks/v1",
        "kind": "Service",
        "metadata": {"name": "digits"},
        "spec": {"processor": "onnx", "model": "digits:1", "instance_type": "local.small", "replicas": 1},
    },
)

__all__ = ["SERVICE", "ServicePhase", "ServiceSpec", "service_path"]
