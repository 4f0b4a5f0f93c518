"""What other products use of the registry."""

from __future__ import annotations

from modelworks.products.kind import Kind
from modelworks.products.registry.aliases import check_delete
from modelworks.products.registry.decide import decide
from modelworks.products.registry.observe import observe
from modelworks.products.registry.queries import ModelVersion, find_version
from modelworks.products.registry.resolve import resolve
from modelworks.products.registry.spec import ModelSpec

MODEL = Kind(
    name="Model",
    plural="models",
    spec=ModelSpec,
    short=("mdl",),
    resolve=resolve,
    observe=observe,
    decide=decide,
    check_delete=check_delete,
    example={
        "apiVersion": "modelworks/v1",
        "kind": "Model",
        "metadata": {"name": "digits"},
        "spec": {"description": "Handwritten digits", "aliases": {}},
    },
)

__all__ = ["MODEL", "ModelVersion", "find_version"]
