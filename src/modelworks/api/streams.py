"""What waits for news: the watch as server-sent events, and the events as a long poll.

Both read the database; a NOTIFY only shortens the wait, and without a listener they look a few times a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import orjson
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection, select

from modelworks.api.documents import EventDocument, EventPage
from modelworks.api.resources import find_kind
from modelworks.control.context import Context
from modelworks.db import events, resources
from modelworks.db.listen import CHANGES, EVENTS, Listener
from modelworks.db.tables import resources as table
from modelworks.kernel.errors import Unavailable
from modelworks.kernel.resource import Name, Ref
from modelworks.products.context import ContextOf, WorkspaceOf

router = APIRouter(tags=["events"])

_POLL_S = 0.3  # without a listener
_LOOK_S = 10.0  # with one: a notification may be lost with its connection
_HEARTBEAT_S = 15.0
_ALL = ""
_SERVER_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["resource", "deleted"]},
        "id": {"type": "string", "description": "The version of the resource."},
        "data": {"type": "string", "description": "The document as JSON; of what was deleted, who it was."},
    },
}

KindFilter = Annotated[str | None, Query(max_length=64, description="Only of this kind.")]
NameFilter = Annotated[Name | None, Query(description="Only of this name.")]


class News:
    """Payloads of one channel, handed from the listener's thread to this request's loop; ``""`` means look at all."""

    def __init__(self, listener: Listener | None, channel: str) -> None:
        self._pause = _LOOK_S if listener is not None else _POLL_S
        self._loop = asyncio.get_running_loop()
        self._payloads: set[str] = set()
        self._arrived = asyncio.Event()
        self._cancel = listener.subscribe(channel, self._tell) if listener is not None else None

    async def wait(self, seconds: float) -> set[str]:
        """The payloads since the last call, after at most ``seconds``."""
        begun = time.monotonic()
        try:
            await asyncio.wait_for(self._arrived.wait(), max(min(seconds, self._pause), 0.0))
        except TimeoutError:
            if time.monotonic() - begun >= self._pause * 0.99:
                return {_ALL}
            return set()
        self._arrived.clear()
        payloads, self._payloads = self._payloads, set()
        return payloads

    def close(self) -> None:
        if self._cancel is not None:
            self._cancel()

    def _tell(self, payload: str) -> None:
        # A loop that is closed has no request any more.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, payload)

    def _take(self, payload: str) -> None:
        self._payloads.add(payload)
        self._arrived.set()


@dataclass
class Watch:
    """What one watcher was told: the version of every resource it knows."""

    workspace: str
    kind: str | None
    name: str | None
    told: dict[str, tuple[int, Ref]] = field(default_factory=dict)

    def look(self, connection: Connection, uids: set[str] | None) -> list[tuple[str, int, Mapping[str, Any]]]:
        """``(event, version, document)`` of what changed among ``uids`` (None: among all)."""
        query = select(table.c.uid, table.c.version).where(table.c.workspace == self.workspace)
        if self.kind is not None:
            query = query.where(table.c.kind == self.kind)
        if self.name is not None:
            query = query.where(table.c.name == self.name)
        if uids is not None:
            query = query.where(table.c.uid.in_(uids))
        versions = {row.uid: row.version for row in connection.execute(query)}
        news: list[tuple[str, int, Mapping[str, Any]]] = []
        for uid in [u for u in self.told if u not in versions and (uids is None or u in uids)]:
            news.append(self._deleted(uid))
        for uid, version in sorted(versions.items(), key=lambda item: item[1]):
            if uid in self.told and self.told[uid][0] == version:
                continue
            found = resources.get_by_uid(connection, uid)
            if found is not None:
                self.told[uid] = (found.version, found.ref)
                news.append(("resource", found.version, found.document()))
            elif uid in self.told:  # it went between the two reads
                news.append(self._deleted(uid))
        return news

    def _deleted(self, uid: str) -> tuple[str, int, Mapping[str, Any]]:
        version, ref = self.told.pop(uid)
        return "deleted", version, {"uid": uid, "workspace": ref.workspace, "kind": ref.kind, "name": ref.name}


@router.get(
    "/watch",
    summary="Follow resources",
    operation_id="watch",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": _SERVER_EVENT}}}},
)
async def watch(
    request: Request,
    context: ContextOf,
    workspace: WorkspaceOf,
    kind: KindFilter = None,
    name: NameFilter = None,
    timeout: Annotated[float, Query(ge=0, le=3600, description="The stream ends after so many seconds.")] = 300.0,
) -> StreamingResponse:
    """Server-sent events: `resource` with each document, now and whenever it has changed; `deleted` when it went.

    A single resource (`kind` and `name`) that is not there is told as `deleted` at once: it may have gone just now.
    Changes that follow each other closely may be told as one.
    """
    full = cast(Context, context)
    watched = Watch(workspace, find_kind(context.kinds, kind).name if kind else None, name)
    first = await run_sync(_look, full, watched, None)  # so that a database that is away is a problem, not a cut stream
    if not first and watched.kind and watched.name:
        first = [("deleted", 0, {"workspace": workspace, "kind": watched.kind, "name": watched.name})]
    return StreamingResponse(_follow(full, watched, first, timeout), media_type="text/event-stream")


@router.get("/events", summary="What happened", operation_id="listEvents")
async def list_events(
    context: ContextOf,
    workspace: WorkspaceOf,
    kind: KindFilter = None,
    name: NameFilter = None,
    since: Annotated[str, Query(max_length=64, description="`cursor` of an earlier answer.")] = "0",
    limit: Annotated[int, Query(ge=1, le=10_000, description="How many at most.")] = 1000,
    wait: Annotated[float, Query(ge=0, le=60, description="Wait so many seconds for the first event.")] = 0.0,
) -> EventPage:
    """Oldest first."""
    full = cast(Context, context)
    after = events.Cursor.parse(since)
    wanted = find_kind(context.kinds, kind).name if kind else None

    def read() -> events.Page:
        with full.engine.connect() as connection:
            return events.read(connection, after, workspace=workspace, kind=wanted, name=name, limit=limit)

    deadline = time.monotonic() + wait
    news = News(full.listener, EVENTS)
    try:
        page = await run_sync(read)
        while not page.items and (left := deadline - time.monotonic()) > 0:
            await news.wait(min(left, 1.0))
            page = await run_sync(read)
    finally:
        news.close()
    return EventPage(items=[EventDocument.of(event) for event in page.items], cursor=str(page.cursor))


async def _follow(
    context: Context, watched: Watch, first: list[tuple[str, int, Mapping[str, Any]]], timeout: float
) -> AsyncIterator[bytes]:
    deadline = time.monotonic() + timeout
    spoke = time.monotonic()
    news = News(context.listener, CHANGES)
    found, uids = first, {_ALL}  # what changed between the first look and the subscription is found by looking again
    try:
        while True:
            if found:
                yield b"".join(_sse(*item) for item in found)
                spoke = time.monotonic()
            elif time.monotonic() - spoke > _HEARTBEAT_S:
                yield b": still here\n\n"
                spoke = time.monotonic()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            uids = uids or await news.wait(left)
            try:
                found = await run_sync(_look, context, watched, None if _ALL in uids else uids) if uids else []
            except Unavailable:
                return  # the client comes back, and is told what is then
            uids = set()
    finally:
        news.close()


def _look(context: Context, watched: Watch, uids: set[str] | None) -> list[tuple[str, int, Mapping[str, Any]]]:
    with context.engine.connect() as connection:
        return watched.look(connection, uids)


def _sse(event: str, version: int, document: Mapping[str, Any]) -> bytes:
    return b"event: %s\nid: %d\ndata: %s\n\n" % (event.encode(), version, orjson.dumps(document))
