"""Named SQL of training: the wish to cancel is an event, so that no pass that is under way can overwrite it."""

from __future__ import annotations

from sqlalchemy import Connection, select

from modelworks.db.tables import events

CANCEL_REQUESTED = "CancelRequested"


def cancel_requested_at(connection: Connection, uid: str) -> float | None:
    """When somebody first asked to cancel the job, in Unix seconds."""
    query = select(events.c.at).where(events.c.uid == uid, events.c.reason == CANCEL_REQUESTED)
    at = connection.scalar(query.order_by(events.c.seq).limit(1))
    return None if at is None else at.timestamp()
