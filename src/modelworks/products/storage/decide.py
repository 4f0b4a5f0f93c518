"""What to do next about a bucket or a volume. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from modelworks.kernel.decision import (
    Action,
    Decision,
    Emit,
    EnsureBucket,
    EnsureDirectory,
    Meter,
    Remove,
    RemoveBucket,
    RemoveDirectory,
)
from modelworks.kernel.events import Level
from modelworks.kernel.quantities import format_bytes
from modelworks.kernel.resource import Resource
from modelworks.products.storage.observe import BucketObserved, VolumeObserved

GIB = 1024**3
_LOOK_AGAIN_S = 15.0


class StoragePhase(StrEnum):
    """Where a bucket or volume is. What is ``Deleting`` says what it waits for."""

    READY = "Ready"
    DELETING = "Deleting"


def decide_bucket(resource: Resource, observed: BucketObserved, now: datetime) -> Decision:
    """Make it, meter what was measured in it, remove it once it is empty.

    Whether it is empty only the store knows: removing a bucket that holds objects is refused, the resource stays, and
    it is tried again.
    """
    name = resource.ref.name
    if resource.deleting is not None:
        refused = resource.status.get("phase") == StoragePhase.DELETING
        message = f"removed as soon as it holds no object; `mw bucket rm -r s3://{name}/` empties it"
        leaving = {**resource.status, "phase": StoragePhase.DELETING.value, "message": message}
        return Decision(leaving, (RemoveBucket(name, quiet=refused), Remove()), wake_in=_LOOK_AGAIN_S)
    actions: list[Action] = []
    if _is_new(resource):
        actions.append(EnsureBucket(name))
    status: dict[str, Any] = {
        "phase": StoragePhase.READY.value,
        "message": "",
        "observed_generation": resource.generation,
    }
    status |= {"uri": f"s3://{name}/"}
    if observed.usage is not None:
        size, objects = observed.usage.bytes, observed.usage.objects
        noun = "object" if objects == 1 else "objects"
        status |= {"bytes": size, "objects": objects, "message": f"{format_bytes(size)} in {objects} {noun}"}
        if size != resource.status.get("bytes"):
            actions.append(_meter_storage(resource, size / GIB, observed.price_per_gib_hour, ended=size == 0))
    return Decision(status, tuple(actions))


def decide_volume(resource: Resource, observed: VolumeObserved, now: datetime) -> Decision:
    """Make its directory, meter its size, remove it once nothing uses it. A user's own directory is never touched."""
    own = resource.resolved.get("path")
    path = own or f"{observed.directory}/{resource.uid}"
    size = int(resource.spec["size"])
    meter = Meter(
        key=f"{resource.uid}/volume",
        item="volume",
        quantity=size / GIB,
        unit="GiB",
        price_per_hour=observed.price_per_gib_hour,
        ended=resource.deleting is not None,
    )
    if resource.deleting is not None:
        if observed.attached:
            names = ", ".join(f"{ref.kind} {ref.name}" for ref in observed.attached)
            return _waits(resource, f"still attached to {names}", "VolumeAttached")
        removal = () if own else (RemoveDirectory(path),)
        return Decision(resource.status, (*removal, meter, Remove()))
    actions: list[Action] = []
    if _is_new(resource):
        if not own:
            actions.append(EnsureDirectory(path, size))
        actions.append(meter)
    status = {
        "phase": StoragePhase.READY.value,
        "message": f"{format_bytes(size)}, {'shared' if resource.spec.get('shared') else 'for one workload'}",
        "observed_generation": resource.generation,
        "path": path,
    }
    return Decision(status, tuple(actions))


def _is_new(resource: Resource) -> bool:
    """This generation was never carried out."""
    status = resource.status
    return status.get("phase") != StoragePhase.READY or status.get("observed_generation") != resource.generation


def _waits(resource: Resource, message: str, reason: str) -> Decision:
    status = {**resource.status, "phase": StoragePhase.DELETING.value, "message": message}
    told = resource.status.get("message") == message
    actions = () if told else (Emit(reason, message, Level.WARNING),)
    return Decision(status, actions, wake_in=_LOOK_AGAIN_S)


def _meter_storage(resource: Resource, gib: float, price: float, *, ended: bool) -> Meter:
    return Meter(
        key=f"{resource.uid}/storage", item="storage", quantity=gib, unit="GiB", price_per_hour=price, ended=ended
    )
