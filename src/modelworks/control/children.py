"""Resources that a resource has made: as if somebody had applied, cancelled or deleted them. Each may come twice."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine

from modelworks.control.apply import apply
from modelworks.control.delete import delete
from modelworks.db import events, resources
from modelworks.kernel.decision import BOUND, OWNER, CancelChild, CreateChild, RemoveChild
from modelworks.kernel.errors import Conflict, NotFound
from modelworks.kernel.principal import PLATFORM, Principal
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.kind import Kind
from modelworks.products.training.facade import CANCEL_REQUESTED
from modelworks.settings import Settings


def create(
    engine: Engine, settings: Settings, kinds: Mapping[str, Kind], resource: Resource, action: CreateChild
) -> None:
    """Raises Conflict when somebody else's has the name, and what apply raises."""
    ref = Ref(resource.ref.workspace, action.kind, action.name)
    with engine.connect() as connection:
        found = resources.get(connection, ref)
    if found is not None:
        if found.labels.get(OWNER) != resource.uid:
            raise Conflict(
                f"there is a {action.kind} {action.name} that is not of {resource.ref.kind} {resource.ref.name}",
                remedy=f"delete {action.name}, or give the {resource.ref.kind} another name",
            )
        return
    metadata = {
        "name": action.name,
        "workspace": ref.workspace,
        "labels": {**action.labels, OWNER: resource.uid},
    }
    manifest = {"kind": action.kind, "metadata": metadata, "spec": dict(action.spec)}
    # A bucket may be another workspace's by now: who could not name it then, does not reach it through a child.
    principal = Principal(str(resource.ref), ref.workspace) if resource.resolved.get(BOUND) else PLATFORM
    apply(engine, [manifest], settings, kinds, principal=principal)


def cancel(engine: Engine, resource: Resource, action: CancelChild) -> None:
    with engine.begin() as connection:
        child = resources.lock(connection, Ref(resource.ref.workspace, action.kind, action.name))
        if child is None or child.labels.get(OWNER) != resource.uid or child.deleting is not None:
            return
        if any(event.reason == CANCEL_REQUESTED for event in events.latest(connection, child.uid, 100)):
            return
        events.append(connection, child.ref, child.uid, CANCEL_REQUESTED, action.reason)
        resources.wake(connection, [child.uid])


def remove(engine: Engine, kinds: Mapping[str, Kind], resource: Resource, action: RemoveChild) -> None:
    ref = Ref(resource.ref.workspace, action.kind, action.name)
    with engine.connect() as connection:
        child = resources.get(connection, ref)
    if child is None or child.labels.get(OWNER) != resource.uid or child.deleting is not None:
        return
    try:
        delete(engine, ref, kinds)
    except NotFound:
        return  # gone meanwhile, as is wished
