"""Delete: a resource is marked, its reconciler ends what it holds and then removes the row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select

from modelworks.db import events, resources
from modelworks.db.tables import claims as claims_table
from modelworks.db.tables import resources as table
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.kind import Kind
from modelworks.products.named import named


@dataclass(frozen=True)
class Deletion:
    """The marked resource, and what stays behind when it is gone."""

    resource: Resource
    notes: tuple[str, ...] = ()


def delete(engine: Engine, ref: Ref, kinds: Mapping[str, Kind]) -> Deletion:
    """Mark a resource as deleting; repeated, nothing more happens. Raises NotFound, or its kind's Conflict."""
    with engine.begin() as connection:
        stored = named(connection, ref.kind, ref.workspace, ref.name, lock=True)
        notes = _stays(connection, stored)
        if stored.deleting is not None:
            return Deletion(stored, notes)
        check = kinds[ref.kind].check_delete if ref.kind in kinds else None
        if check is not None:
            check(stored, connection)
        marked = resources.mark_deleting(connection, stored.uid)
        events.append(connection, ref, stored.uid, "Deleting", "; ".join(("deletion requested", *notes)))
        return Deletion(marked, notes)


def _stays(connection: Connection, resource: Resource) -> tuple[str, ...]:
    """Volumes outlive their workloads; one that nothing else uses is easily forgotten, and costs."""
    notes = []
    for volume in resource.spec.get("volumes") or ():
        name = volume.get("name") if isinstance(volume, Mapping) else None
        if name is None:
            continue
        # Attached is what holds room: a job that ended or a service that is stopped uses nothing.
        others = (
            select(table.c.uid)
            .where(table.c.workspace == resource.ref.workspace, table.c.uid != resource.uid)
            .where(table.c.spec.contains({"volumes": [{"name": name}]}))
            .where(select(claims_table.c.key).where(claims_table.c.uid == table.c.uid).exists())
        )
        if connection.execute(others.limit(1)).first() is None:
            notes.append(f"volume {name} stays, attached to nothing; `mw delete volume {name}` ends its cost")
    return tuple(notes)
