"""HTTP of asynchronous services' tasks, as their owner sees them: how many, how old, which."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from modelworks.db import resources
from modelworks.db import tasks as sql
from modelworks.kernel.errors import FieldError, Invalid, NotFound
from modelworks.kernel.resource import Ref
from modelworks.products.context import ContextOf, NamePath, PageSize, WorkspaceOf
from modelworks.products.serving.facade import SERVICE

_routes = APIRouter(prefix="/services", tags=["services"])
_COLUMNS = ("id", "state", "attempts", "created_at", "finished_at", "expires_at", "status")
State = Literal["pending", "running", "done"]


def router() -> APIRouter:
    return _routes


@_routes.get("/{name}/tasks", summary="The tasks of an asynchronous service", operation_id="listServiceTasks")
def list_tasks(
    name: NamePath,
    context: ContextOf,
    workspace: WorkspaceOf,
    state: Annotated[State | None, Query(description="Only tasks in this state.")] = None,
    limit: PageSize = 100,
    cursor: Annotated[str | None, Query(max_length=32, description="`next_cursor` of the page before.")] = None,
) -> dict[str, Any]:
    """Counts, and the newest first. Results are the callers', who hold the service's token: they are not shown."""
    with context.engine.connect() as connection:
        service = resources.get(connection, Ref(workspace, SERVICE.name, name))
        if service is None:
            raise NotFound(
                f"there is no Service {name} in workspace {workspace}", remedy="`mw service list` shows those there are"
            )
        terms = {"uid": service.uid, "state": state, "limit": limit + 1, "before": _before(cursor)}
        found = [tuple(row) for row in connection.exec_driver_sql(sql.LIST, terms)]
        counts = _counts(connection, service.uid)
    items = [_item(row[1:]) for row in found[:limit]]
    return {"counts": counts, "items": items, "next_cursor": str(found[limit - 1][0]) if len(found) > limit else None}


def _counts(connection: Connection, uid: str) -> dict[str, Any]:
    row = connection.exec_driver_sql(sql.COUNTS, {"uid": uid}).one()
    oldest = row.oldest
    return {
        "pending": row.pending,
        "running": row.running,
        "succeeded": row.succeeded,
        "failed": row.failed,
        "oldest_seconds": None if oldest is None else round(oldest, 3),
    }


def _item(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(_COLUMNS, row, strict=True))


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isdecimal() or len(cursor) > 18:
        raise Invalid(f"not a cursor: {cursor!r}", fields=(FieldError("cursor", "not one of ours"),))
    return int(cursor)
