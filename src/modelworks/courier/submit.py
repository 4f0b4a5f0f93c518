"""Submissions, stored many at a time: all that came while one transaction was on its way go with the next one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from modelworks.courier.database import Away, Link
from modelworks.db import tasks as sql

_MOST_ROWS = 500
_MOST_BYTES = 16 * 1024 * 1024
_MOST_WAITING = 64 * 1024 * 1024  # bytes of bodies
# A database that starts again is waited for: a slow answer is better than an error.
_PATIENCE = 5.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.05, 0.5


class Full(Exception):
    """The service has as many open tasks as it may have."""


@dataclass(frozen=True)
class Submission:
    """One task to be stored. ``most`` is how many open ones its service may have."""

    id: str
    uid: str
    request: dict[str, Any]
    body: bytes
    webhook: str | None
    most: int


class Submitter:
    """``store`` returns when the task is in the table for good."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: list[tuple[Submission, asyncio.Future[None]]] = []
        self._waiting = 0
        self._wake = asyncio.Event()
        # As far as is known: refreshed by whoever measures the depths, and counted on in between.
        self.open: dict[str, int] = {}

    async def store(self, submission: Submission) -> None:
        """Raises Full; Away when the database does not answer, or too much waits for it already."""
        if self._waiting + len(submission.body) > _MOST_WAITING:
            raise Away("too many submissions wait for the database")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((submission, future))
        self._waiting += len(submission.body)
        self._wake.set()
        try:
            await future
        finally:
            self._waiting -= len(submission.body)

    async def run(self) -> None:
        """Store what comes, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = self._take()
                try:
                    await self._store(batch)
                except Away as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(Away(str(error)))

    def _take(self) -> list[tuple[Submission, asyncio.Future[None]]]:
        size = count = 0
        for submission, _ in self._queue[:_MOST_ROWS]:
            size += len(submission.body)
            count += 1
            if size > _MOST_BYTES:
                break
        batch, self._queue = self._queue[:count], self._queue[count:]
        # Who has gone meanwhile was promised nothing.
        return [(submission, future) for submission, future in batch if not future.done()]

    async def _store(self, batch: Sequence[tuple[Submission, asyncio.Future[None]]]) -> None:
        loop = asyncio.get_running_loop()
        end, backoff = loop.time() + _PATIENCE, _FIRST_BACKOFF
        while True:
            try:
                stored = await self._link.run(lambda connection: self._insert(connection, [one for one, _ in batch]))
                break
            except Away:
                if loop.time() + backoff > end:
                    raise
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
        for submission, future in batch:
            if future.done():
                continue
            if submission.id in stored:
                future.set_result(None)
            else:
                future.set_exception(Full())

    async def _insert(self, connection: psycopg.AsyncConnection, batch: Sequence[Submission]) -> set[str]:
        """One transaction; the ids that are in the table after it."""
        async with connection.transaction(), connection.cursor() as cursor:
            refused = await self._refused(cursor, batch)
            rows = [one for one in batch if one.id not in refused]
            await cursor.executemany(
                sql.INSERT, [(one.id, one.uid, json.dumps(one.request), one.body, one.webhook) for one in rows]
            )
        for one in rows:
            self.open[one.uid] = self.open.get(one.uid, 0) + 1
        return {one.id for one in rows}

    async def _refused(self, cursor: psycopg.AsyncCursor, batch: Sequence[Submission]) -> set[str]:
        """The ids for which there is no room. Open tasks are counted only where the limit may be near."""
        refused: set[str] = set()
        for uid in {one.uid for one in batch}:
            mine = [one for one in batch if one.uid == uid]
            most = mine[-1].most
            if self.open.get(uid, 0) + len(mine) <= most:
                continue
            await cursor.execute(sql.COUNT_OPEN, {"uid": uid, "limit": most})
            row = await cursor.fetchone()
            self.open[uid] = int(row[0]) if row else 0
            refused |= {one.id for one in mine[max(0, most - self.open[uid]) :]}
        if refused:
            # What is there already, under an idempotency key, takes no room.
            await cursor.execute("SELECT id FROM tasks WHERE id = ANY(%s)", (list(refused),))
            refused -= {str(row[0]) for row in await cursor.fetchall()}
        return refused
