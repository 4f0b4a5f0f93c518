"""HTTP of asynchronous services' tasks, as their owner sees them: how many, how old, which."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict
from sqlalchemy import Connection

from modelworks.db import tasks as sql
from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.spec import Spec
from modelworks.products.context import ContextOf, NamePath, PageSize, WorkspaceOf
from modelworks.products.named import named
from modelworks.products.serving.facade import SERVICE

_routes = APIRouter(prefix="/services", tags=["services"])
State = Literal["pending", "running", "done"]
_EXAMPLE: dict[str, Any] = {
    "counts": {"pending": 3, "running": 1, "succeeded": 40, "failed": 0, "oldest_seconds": 1.25},
    "items": [
        {
            "id": "06bc02413105aba68ad254424eeb9be7",
            "state": "done",
            "attempts": 1,
            "created_at": "2026-01-31T09:00:00Z",
            "finished_at": "2026-01-31T09:00:01Z",
            "expires_at": "2026-02-01T09:00:01Z",
            "status": 200,
        }
    ],
    "next_cursor": None,
}


class TaskCounts(Spec):
    """Of all tasks whose results are kept. ``oldest_seconds``: how long the first pending one has waited."""

    pending: int
    running: int
    succeeded: int
    failed: int
    oldest_seconds: float | None


class Task(Spec):
    """``status`` is the result's, once the task is done; after ``expires_at`` it is forgotten."""

    id: str
    state: State
    attempts: int
    created_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    status: int | None


class ServiceTasks(Spec):
    """The newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    counts: TaskCounts
    items: list[Task]
    next_cursor: str | None = None


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
) -> ServiceTasks:
    """Counts, and the newest first. Results are the callers', who hold the service's token: they are not shown."""
    with context.engine.connect() as connection:
        service = named(connection, SERVICE.name, workspace, name)
        terms = {"uid": service.uid, "state": state, "limit": limit + 1, "before": _before(cursor)}
        found = [tuple(row) for row in connection.exec_driver_sql(sql.LIST, terms)]
        counts = _counts(connection, service.uid)
    items = [Task(**dict(zip(Task.model_fields, row[1:], strict=True))) for row in found[:limit]]
    return ServiceTasks(
        counts=counts, items=items, next_cursor=str(found[limit - 1][0]) if len(found) > limit else None
    )


def _counts(connection: Connection, uid: str) -> TaskCounts:
    row = connection.exec_driver_sql(sql.COUNTS, {"uid": uid}).one()
    oldest = row.oldest
    return TaskCounts(
        pending=row.pending,
        running=row.running,
        succeeded=row.succeeded,
        failed=row.failed,
        oldest_seconds=None if oldest is None else round(oldest, 3),
    )


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isdecimal() or len(cursor) > 18:
        raise Invalid(f"not a cursor: {cursor!r}", fields=(FieldError("cursor", "not one of ours"),))
    return int(cursor)
