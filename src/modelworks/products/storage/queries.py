"""Named SQL of storage: who owns a bucket, how much lies in it, and what a volume is attached to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB, insert

from modelworks.db.tables import bucket_usage, resources
from modelworks.kernel.resource import Ref

_WORKLOADS = ("TrainingJob", "Service")
_ENDED = ("Succeeded", "Failed", "Cancelled")  # a service holds its volumes until it is deleted


@dataclass(frozen=True)
class Usage:
    """What lay in a bucket when it was last measured."""

    bytes: int
    objects: int
    measured_at: datetime


def bucket_workspace(connection: Connection, name: str) -> str | None:
    """The workspace whose Bucket has this name."""
    query = select(resources.c.workspace).where(resources.c.kind == "Bucket", resources.c.name == name)
    return connection.scalar(query.order_by(resources.c.created_at).limit(1))


def all_buckets(connection: Connection) -> list[tuple[str, str]]:
    """``(uid, name)`` of every bucket that is made and not being deleted."""
    rows = connection.execute(
        select(resources.c.uid, resources.c.name).where(
            resources.c.kind == "Bucket",
            resources.c.deleting.is_(None),
            resources.c.status["phase"].astext == "Ready",
        )
    )
    return [(row.uid, row.name) for row in rows]


def usage(connection: Connection, uid: str) -> Usage | None:
    row = connection.execute(select(bucket_usage).where(bucket_usage.c.uid == uid)).one_or_none()
    return Usage(row.bytes, row.objects, row.measured_at) if row else None


def put_usage(connection: Connection, uid: str, size: int, objects: int) -> bool:
    """Note what lies in a bucket; True when that differs from before. A bucket that is gone is left alone."""
    exists = connection.scalar(select(resources.c.uid).where(resources.c.uid == uid).with_for_update(key_share=True))
    if exists is None:
        return False
    before = usage(connection, uid)
    values = {"bytes": size, "objects": objects, "measured_at": func.now()}
    statement = insert(bucket_usage).values(uid=uid, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["uid"], set_=values))
    return before is None or (before.bytes, before.objects) != (size, objects)


def attached(connection: Connection, workspace: str, volume: str) -> list[Ref]:
    """The live workloads whose spec names a volume."""
    query = (
        select(resources.c.kind, resources.c.name)
        .where(
            resources.c.workspace == workspace,
            resources.c.kind.in_(_WORKLOADS),
            resources.c.spec["volumes"].contains(literal([{"name": volume}], type_=JSONB)),
            func.coalesce(resources.c.status["phase"].astext, "").not_in(_ENDED),
        )
        .order_by(resources.c.kind, resources.c.name)
    )
    return [Ref(workspace, row.kind, row.name) for row in connection.execute(query)]
