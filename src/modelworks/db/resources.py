"""Resources: the rows users declare, their leases and their statuses.

``wake_at`` says when a row is due; NULL is never. Who works on a row holds its lease, and every result is written under
the lease's token. Whoever asks for a pass sets ``wake_at`` to now; a lease remembers the ``wake_at`` it took, so that a
request that came during the pass is seen when the lease ends. Times are the database's own: controllers on several
machines need not agree on theirs.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Row, String, bindparam, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from modelworks.db.listen import CHANGES, RESOURCES, notify, notify_each
from modelworks.db.tables import resources as table
from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.resource import Ref, Resource


@dataclass(frozen=True)
class Page:
    """Resources in the order workspace, name. ``next_cursor`` is None on the last page."""

    items: tuple[Resource, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Lease:
    """The right to work on one row until it expires. ``wake_at`` is the row's when it was taken."""

    resource: Resource
    token: str
    wake_at: datetime


@dataclass(frozen=True)
class Settled:
    """A finished pass that changed nothing: the lease ends, and the row sleeps ``wake_in`` seconds (None: for good)."""

    lease: Lease
    wake_in: float | None


def get(connection: Connection, ref: Ref) -> Resource | None:
    row = connection.execute(_GET, _named(ref)).one_or_none()
    return _resource(row) if row else None


def get_by_uid(connection: Connection, uid: str) -> Resource | None:
    row = connection.execute(_GET_BY_UID, {"uid": uid}).one_or_none()
    return _resource(row) if row else None


def lock(connection: Connection, ref: Ref) -> Resource | None:
    """As :func:`get`, and nobody else writes the row before this transaction ends."""
    row = connection.execute(_LOCK, _named(ref)).one_or_none()
    return _resource(row) if row else None


def names(connection: Connection, kind: str, workspace: str, limit: int = 1000) -> list[str]:
    """The names of a kind in a workspace, the latest first."""
    query = select(table.c.name).where(table.c.workspace == workspace, table.c.kind == kind)
    return list(connection.scalars(query.order_by(table.c.created_at.desc()).limit(limit)))


def page(
    connection: Connection,
    kind: str,
    *,
    workspace: str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page:
    """One page of a kind, of one workspace or all. Raises Invalid for a cursor that is not one of ours."""
    statement = select(table).where(table.c.kind == kind)
    if workspace is not None:
        statement = statement.where(table.c.workspace == workspace)
    if labels:
        statement = statement.where(table.c.labels.contains(dict(labels)))
    if cursor:
        statement = statement.where(tuple_(table.c.workspace, table.c.name) > tuple_(*_position(cursor)))
    statement = statement.order_by(table.c.workspace, table.c.name).limit(limit + 1)
    found = tuple(_resource(row) for row in connection.execute(statement))
    items = found[:limit]
    return Page(items, _cursor(items[-1].ref) if len(found) > limit else None)


def insert_new(
    connection: Connection,
    ref: Ref,
    spec: Mapping[str, Any],
    resolved: Mapping[str, Any],
    labels: Mapping[str, str],
) -> Resource | None:
    """Store a resource of generation 1, due at once. None when somebody else made it meanwhile."""
    values = {"spec": spec, "resolved": resolved, "labels": labels}
    row = connection.execute(_INSERT, {"uid": secrets.token_hex(8), **_named(ref), **values}).one_or_none()
    if row is None:
        return None
    return _announced(connection, row)


def replace(
    connection: Connection,
    uid: str,
    spec: Mapping[str, Any],
    resolved: Mapping[str, Any],
    labels: Mapping[str, str],
) -> Resource:
    """The next generation of a resource, due at once. Its row must be locked by this transaction."""
    return _change(connection, uid, generation=table.c.generation + 1, spec=spec, resolved=resolved, labels=labels)


def mark_deleting(connection: Connection, uid: str) -> Resource:
    """From here on the resource goes away; its reconciler removes the row. Repeated, the first time stands."""
    return _change(connection, uid, deleting=func.coalesce(table.c.deleting, func.now()))


def remove(connection: Connection, uid: str) -> None:
    connection.execute(table.delete().where(table.c.uid == uid))
    notify(connection, CHANGES, uid)


def wake(connection: Connection, uids: Iterable[str]) -> None:
    """Ask for a pass over these rows, now or as soon as the pass that is under way has ended."""
    notify_each(connection, RESOURCES, touch(connection, uids))


def touch(connection: Connection, uids: Iterable[str]) -> list[str]:
    """Make rows due without waking anybody; returns those that exist."""
    return list(connection.scalars(_TOUCH, {"uids": sorted(uids)}))


def lease_due(connection: Connection, owner: str, limit: int, seconds: float) -> list[Lease]:
    """Lease up to ``limit`` rows that are due and free, the longest due first."""
    return _leased(connection.execute(_LEASE_DUE, _terms(owner, seconds, limit=limit)))


def lease_these(connection: Connection, owner: str, uids: Iterable[str], seconds: float) -> list[Lease]:
    """Lease those of the rows that are free, whether due or not."""
    return _leased(connection.execute(_LEASE_THESE, _terms(owner, seconds, uids=sorted(uids))))


def disown(connection: Connection, owner: str) -> int:
    """End the leases of an owner that died: its rows are due at once. Returns how many there were."""
    return connection.execute(_DISOWN, {"prefix": f"{owner}."}).rowcount


def renew(connection: Connection, lease: Lease, seconds: float) -> bool:
    """Hold the lease for ``seconds`` from now; False when it was lost to somebody else, or the row is gone.

    Inside a transaction it also keeps everybody else from taking the lease before the transaction ends.
    """
    terms = {"uid": lease.resource.uid, "token": lease.token, "seconds": seconds}
    return connection.execute(_RENEW, terms).rowcount == 1


def settle(connection: Connection, settled: Sequence[Settled]) -> dict[str, float | None]:
    """End leases without a change; returns uid → seconds until the row is due (None: never) of those still held."""
    terms = {
        "uids": [s.lease.resource.uid for s in settled],
        "tokens": [s.lease.token for s in settled],
        "taken": [s.lease.wake_at for s in settled],
        "wakes": [s.wake_in for s in settled],
    }
    return {row.uid: row.due_in for row in connection.execute(_SETTLE, terms)}


def write_status(
    connection: Connection, lease: Lease, status: Mapping[str, Any], wake_in: float | None
) -> float | None:
    """Write a status and end the lease; returns the seconds until the row is due again (None: never).

    Raises :class:`LeaseLost` when the lease is somebody else's by now: nothing was written.
    """
    terms = {
        "uid": lease.resource.uid,
        "token": lease.token,
        "taken": lease.wake_at,
        "wake": wake_in,
        "status": status,
    }
    row = connection.execute(_WRITE_STATUS, terms).one_or_none()
    if row is None:
        raise LeaseLost(lease.resource.ref)
    return None if row.due_in is None else float(row.due_in)


def next_due(connection: Connection) -> float | None:
    """Seconds until the next row without a lease is due (0 or less: now); None when all sleep."""
    due = connection.scalar(_NEXT_DUE)
    return None if due is None else float(due)


class LeaseLost(Exception):
    """Somebody else works on the row: this pass ended too late, and its result is dropped."""


# Rows that are leased keep their wake_at, so that they are due again when their lease expires with its holder. The
# update is then "heap only" too: no index is written for a lease.
_LEASE = """
WITH due AS (
    SELECT uid FROM resources
    WHERE {which} AND (lease_token IS NULL OR lease_expires <= now())
    {limit} FOR UPDATE SKIP LOCKED
)
UPDATE resources SET
    lease_token = :token,
    lease_expires = now() + make_interval(secs => :seconds),
    wake_at = LEAST(wake_at, now())
FROM due WHERE resources.uid = due.uid
RETURNING resources.*
"""
_LEASE_DUE = text(_LEASE.format(which="wake_at <= now()", limit="ORDER BY wake_at LIMIT :limit"))
_LEASE_THESE = text(_LEASE.format(which="uid = ANY(:uids)", limit="")).bindparams(
    bindparam("uids", type_=ARRAY(String))
)

_RENEW = text(
    "UPDATE resources SET lease_expires = now() + make_interval(secs => :seconds) "
    "WHERE uid = :uid AND lease_token = :token"
)
_TOUCH = text("UPDATE resources SET wake_at = clock_timestamp() WHERE uid = ANY(:uids) RETURNING uid").bindparams(
    bindparam("uids", type_=ARRAY(String))
)

_NEXT_DUE = text(
    "SELECT extract(epoch FROM wake_at - clock_timestamp()) FROM resources "
    "WHERE wake_at IS NOT NULL AND lease_token IS NULL ORDER BY wake_at LIMIT 1"
)
_DISOWN = text(
    "UPDATE resources SET lease_token = NULL, lease_expires = NULL, wake_at = clock_timestamp() "
    "WHERE starts_with(lease_token, :prefix)"
)

_AWAKE = """
    lease_token = NULL, lease_expires = NULL,
    wake_at = CASE
        WHEN resources.wake_at IS DISTINCT FROM {taken} THEN resources.wake_at
        ELSE clock_timestamp() + make_interval(secs => {wake})
    END
"""
_DUE_IN = "extract(epoch FROM resources.wake_at - clock_timestamp())::float AS due_in"
_SETTLE = text(
    f"""
UPDATE resources SET {_AWAKE.format(taken="pass.taken", wake="pass.wake")}
FROM unnest(CAST(:uids AS text[]), CAST(:tokens AS text[]), CAST(:taken AS timestamptz[]), CAST(:wakes AS float[]))
    AS pass(uid, token, taken, wake)
WHERE resources.uid = pass.uid AND resources.lease_token = pass.token
RETURNING resources.uid, {_DUE_IN}
"""
)
_WRITE_STATUS = text(
    f"""
WITH written AS (
    UPDATE resources SET status = :status, version = nextval('resource_version'), updated_at = now(),
        {_AWAKE.format(taken="CAST(:taken AS timestamptz)", wake="CAST(:wake AS float)")}
    WHERE uid = :uid AND lease_token = :token
    RETURNING uid, {_DUE_IN}
)
SELECT due_in, pg_notify('{CHANGES}', uid) FROM written
"""
).bindparams(bindparam("status", type_=JSONB))


# Written out, as all that a pass or a request says many times a second: what SQLAlchemy puts together anew for every
# call takes it longer than the database takes for the answer.
_GET = text("SELECT * FROM resources WHERE workspace = :workspace AND kind = :kind AND name = :name")
_LOCK = text(f"{_GET.text} FOR UPDATE")
_GET_BY_UID = text("SELECT * FROM resources WHERE uid = :uid")
_INSERT = text(
    """
INSERT INTO resources (uid, workspace, kind, name, spec, resolved, labels)
VALUES (:uid, :workspace, :kind, :name, :spec, :resolved, :labels)
ON CONFLICT DO NOTHING RETURNING *
"""
).bindparams(*(bindparam(name, type_=JSONB) for name in ("spec", "resolved", "labels")))


def _named(ref: Ref) -> dict[str, Any]:
    return {"workspace": ref.workspace, "kind": ref.kind, "name": ref.name}


def _change(connection: Connection, uid: str, **values: Any) -> Resource:
    values |= {
        "version": text("nextval('resource_version')"),
        "updated_at": func.now(),
        "wake_at": func.clock_timestamp(),
    }
    row = connection.execute(update(table).where(table.c.uid == uid).values(**values).returning(table)).one()
    return _announced(connection, row)


def _announced(connection: Connection, row: Row[Any]) -> Resource:
    connection.execute(_ANNOUNCE, {"uid": row.uid})
    return _resource(row)


_ANNOUNCE = text(f"SELECT pg_notify('{RESOURCES}', :uid), pg_notify('{CHANGES}', :uid)")


def _terms(owner: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {"token": f"{owner}.{secrets.token_hex(8)}", "seconds": seconds, **more}


def _leased(rows: Iterable[Row[Any]]) -> list[Lease]:
    return [Lease(_resource(row), row.lease_token, row.wake_at) for row in rows]


def _resource(row: Row[Any]) -> Resource:
    return Resource(
        uid=row.uid,
        ref=Ref(row.workspace, row.kind, row.name),
        generation=row.generation,
        spec=row.spec,
        created_at=row.created_at,
        updated_at=row.updated_at,
        resolved=row.resolved,
        status=row.status,
        labels=row.labels,
        deleting=row.deleting,
        version=row.version,
    )


def _cursor(ref: Ref) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([ref.workspace, ref.name])).decode().rstrip("=")


def _position(cursor: str) -> tuple[str, str]:
    try:
        workspace, name = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, binascii.Error):
        raise _bad_cursor() from None
    if not (isinstance(workspace, str) and isinstance(name, str)) or "\0" in workspace + name:
        raise _bad_cursor()
    return workspace, name


def _bad_cursor() -> Invalid:
    return Invalid("the cursor is not one this list gave", fields=(FieldError("cursor", "use next_cursor as it came"),))
