"""What is looked at before deciding about a bucket or a volume."""

from __future__ import annotations

from dataclasses import dataclass

from modelworks.kernel.resource import Ref, Resource
from modelworks.products.kind import World
from modelworks.products.storage import queries
from modelworks.products.storage.queries import Usage


@dataclass(frozen=True)
class BucketObserved:
    """What was last measured of a bucket, if it was yet."""

    usage: Usage | None
    price_per_gib_hour: float


@dataclass(frozen=True)
class VolumeObserved:
    """``directory`` is where the platform's own volumes lie; ``attached`` are the live workloads that use this one."""

    directory: str
    price_per_gib_hour: float
    attached: tuple[Ref, ...] = ()


def observe_bucket(resource: Resource, world: World) -> BucketObserved:
    return BucketObserved(queries.usage(world.connection, resource.uid), world.settings.prices.storage_gib_hour)


def observe_volume(resource: Resource, world: World) -> VolumeObserved:
    attached = queries.attached(world.connection, resource.ref.workspace, resource.ref.name)
    settings = world.settings
    return VolumeObserved(f"{settings.home}/volumes", settings.prices.volume_gib_hour, tuple(attached))
