"""The queue as people see it: who waits, at which place, and for what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import func, select

from modelworks.api.documents import QueueEntry, WaitingList
from modelworks.control.queue import gangs
from modelworks.db import claims
from modelworks.kernel.gang import rank
from modelworks.products.context import ContextOf, PrincipalOf, WorkspaceOf

router = APIRouter(tags=["queue"])


@router.get("/queue", summary="What waits for room", operation_id="getQueue")
def get_queue(
    context: ContextOf,
    principal: PrincipalOf,
    workspace: WorkspaceOf,
    name: Annotated[str | None, Query(max_length=63, description="Of this resource alone.")] = None,
) -> WaitingList:
    """The workspace's waiting replicas, the first to be considered first. Places count all workspaces'."""
    with context.engine.connect() as connection:
        stored = claims.everything(connection)
        now = connection.scalar(select(func.now()))
    assert now is not None
    waiting = {claim.claim.key: claim for claim in stored if claim.node is None}
    # The further replicas of an elastic job that runs wait for what all others leave: they are in nobody's way.
    order = sorted(
        (gang for gang in gangs(waiting.values(), (), now) if not all(claim.optional for claim in gang.claims)),
        key=rank,
    )
    entries: list[QueueEntry] = []
    for place, gang in enumerate(order, start=1):
        first = waiting[gang.claims[0].key]
        if gang.workspace != workspace or (name is not None and first.ref.name != name):
            continue
        before = order[place - 2] if place > 1 else None
        told = before.title if before is not None and principal.may_use(before.workspace) else "another workspace's"
        entries.append(
            QueueEntry(
                position=place,
                kind=first.ref.kind,
                name=first.ref.name,
                priority=gang.priority,
                replicas=len(gang.claims),
                waited=round(gang.waited, 3),
                behind=None if before is None else told,
                reason=first.reason,
            )
        )
    return WaitingList(items=entries, length=len(order))
