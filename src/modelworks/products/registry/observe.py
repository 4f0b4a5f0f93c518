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
    return ModelObserved(*queries.summary(world.connection, resource.ref.workspace, resource.ref.name))
