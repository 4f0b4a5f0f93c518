"""What is looked at before deciding about a model."""

from __future__ import annotations

from dataclasses import dataclass

from modelworks.kernel.resource import Resource
from modelworks.products.kind import World
from modelworks.products.registry import queries


@dataclass(frozen=True)
class ModelObserved:
    """``latest`` is the newest version; None before the first."""

    versions: int
    latest: int | None
    size: int


def observe(resource: Resource, world: World) -> ModelObserved:
    found = world.shared(queries.summaries).get(resource.uid)
    return ModelObserved(*found) if found else ModelObserved(0, None, 0)
