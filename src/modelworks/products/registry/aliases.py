"""Moving an alias: a change of the model's spec, as apply would make it."""

from __future__ import annotations

from sqlalchemy import Connection

from modelworks.db import events, resources
from modelworks.kernel.errors import Conflict, Invalid, NotFound
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.registry import queries
from modelworks.products.registry.reference import near


def set_alias(connection: Connection, workspace: str, model: str, alias: str, version: int) -> Resource:
    """``model@alias`` is this version from now on. Raises NotFound, and Invalid for a version that is not there."""
    found = _locked(connection, workspace, model)
    queries.find_version(connection, workspace, f"{model}:{version}", path="version")
    before = found.spec.get("aliases", {})
    return _store(connection, found, {**before, alias: version}, f"{alias}: {before.get(alias, 'nothing')} → {version}")


def remove_alias(connection: Connection, workspace: str, model: str, alias: str) -> Resource:
    """Raises NotFound. Services that were applied with the alias keep the version it was then."""
    found = _locked(connection, workspace, model)
    before: dict[str, int] = found.spec.get("aliases", {})
    if alias not in before:
        raise NotFound(f"the model {model} has no alias {alias!r}{near(alias, list(before))}")
    return _store(connection, found, {a: v for a, v in before.items() if a != alias}, f"{alias}: removed")


def check_delete(resource: Resource, connection: Connection) -> None:
    """Raises Conflict while a service uses the model."""
    users = queries.users(connection, resource.ref.workspace, resource.ref.name)
    if users:
        names = ", ".join(ref.name for ref in users)
        raise Conflict(f"the model {resource.ref.name} serves in {names}", remedy="delete these services first")


def _locked(connection: Connection, workspace: str, model: str) -> Resource:
    found = resources.lock(connection, Ref(workspace, "Model", model))
    if found is None:
        raise NotFound(f"there is no model {model} in the workspace {workspace}")
    if found.deleting is not None:
        raise Conflict(f"the model {model} is being deleted")
    return found


def _store(connection: Connection, found: Resource, aliases: dict[str, int], told: str) -> Resource:
    if found.spec.get("aliases", {}) == aliases:
        return found
    if len(aliases) > 100:
        raise Invalid(f"the model {found.ref.name} has 100 aliases already")
    spec = {**found.spec, "aliases": aliases}
    stored = resources.replace(connection, found.uid, spec, found.resolved, found.labels)
    events.append(connection, stored.ref, stored.uid, "Updated", told, data={"generation": stored.generation})
    return stored
