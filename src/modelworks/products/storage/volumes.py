"""Which workload may have which volume: asked when a workload is applied, told when one goes."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from sqlalchemy import Connection, select

from modelworks.db import resources
from modelworks.db.tables import resources as table
from modelworks.kernel.errors import Conflict, FieldError, Invalid
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.kind import Lookup
from modelworks.products.storage import queries


def volume_sources(
    lookup: Lookup, workspace: str, names: Sequence[str], *, owner: Ref | None = None, path: str = "spec.volumes"
) -> dict[str, str]:
    """Volume name → its absolute directory, for a workload ``owner`` that is being applied.

    Raises Invalid at ``path`` for a volume that is not there, and Conflict for one that is being deleted or, unless it
    is shared, is attached to another live workload. The volumes stay as they are until the transaction ends.
    """
    found = {}
    for name in sorted(set(names)):  # in one order, so that two workloads never wait for each other
        volume = resources.lock(lookup.connection, Ref(workspace, "Volume", name))
        if volume is None:
            raise _unknown(lookup.connection, workspace, name, path)
        if volume.deleting is not None:
            raise Conflict(f"the volume {name} is being deleted")
        if not volume.spec.get("shared"):
            others = [ref for ref in queries.attached(lookup.connection, workspace, name) if ref != owner]
            if owner is not None and others:
                raise Conflict(
                    f"the volume {name} is attached to {others[0].kind} {others[0].name} and is not shared",
                    remedy="delete that workload, or set `shared: true` on the volume, and several write to it at once",
                )
        found[name] = volume.resolved.get("path") or f"{lookup.settings.home}/volumes/{volume.uid}"
    return found


def check_delete_volume(resource: Resource, connection: Connection) -> None:
    """Raises Conflict while a live workload uses the volume."""
    users = queries.attached(connection, resource.ref.workspace, resource.ref.name)
    if users:
        names = ", ".join(f"{ref.kind} {ref.name}" for ref in users)
        raise Conflict(f"the volume {resource.ref.name} is attached to {names}", remedy="delete that first")


def _unknown(connection: Connection, workspace: str, name: str, path: str) -> Invalid:
    query = select(table.c.name).where(table.c.workspace == workspace, table.c.kind == "Volume")
    near = get_close_matches(name, connection.scalars(query.limit(1000)).all(), n=3, cutoff=0.5)
    said = f"no volume is called {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    return Invalid(said, fields=(FieldError(path, said),), remedy="apply a Volume of that name first")
