"""What is looked at before deciding about a bucket or a volume."""

from __future__ import annotations

from dataclasses import dataclass

from modelworks.kernel.errors import NotFound
from modelworks.kernel.resource import Ref, Resource
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.kind import World
from modelworks.products.storage import queries
from modelworks.products.storage.queries import Usage


@dataclass(frozen=True)
class BucketObserved:
    """``empty`` is looked up only of a bucket that should go; a bucket that is not there is empty."""

    usage: Usage | None
    price_per_gib_hour: float
    empty: bool = False


@dataclass(frozen=True)
class VolumeObserved:
    """``directory`` is where the platform's own volumes lie; ``attached`` are the live workloads that use this one."""

    directory: str
    price_per_gib_hour: float
    attached: tuple[Ref, ...] = ()


def observe_bucket(resource: Resource, world: World) -> BucketObserved:
    """Raises Unavailable when the object store cannot be asked."""
    price = world.settings.prices.storage_gib_hour
    if resource.deleting is None:
        return BucketObserved(queries.usage(world.connection, resource.uid), price)
    return BucketObserved(None, price, empty=_is_empty(world, resource.ref.name))


def observe_volume(resource: Resource, world: World) -> VolumeObserved:
    attached = queries.attached(world.connection, resource.ref.workspace, resource.ref.name)
    settings = world.settings
    return VolumeObserved(f"{settings.home}/volumes", settings.prices.volume_gib_hour, tuple(attached))


def _is_empty(world: World, bucket: str) -> bool:
    try:
        return next(iter(ObjectClient(world.credentials).list(ObjectUri(bucket, ""))), None) is None
    except NotFound:
        return True  # gone already: an earlier pass got so far
