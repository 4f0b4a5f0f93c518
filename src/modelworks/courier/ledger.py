"""What becomes of claimed tasks, written many at a time and under their leases: results, further attempts, renewals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg

from modelworks.courier.database import Link
from modelworks.courier.outcome import Result, Retry, kept_headers
from modelworks.db import tasks as sql

_MOST_ROWS = 200
_MOST_BYTES = 16 * 1024 * 1024  # of results in one transaction

_Said = tuple[str, str, dict[str, Any]]  # id, statement, parameters


class Ledger:
    """Nothing that was said is given up: while the database is away it is kept, and written when it is back.

    ``written`` is called with the ids whose state has changed.
    """

    def __init__(self, link: Link, written: Callable[[list[str]], None]) -> None:
        self._link = link
        self._written = written
        self._queue: list[_Said] = []
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.bytes = 0  # of results that wait to be written

    @property
    def depth(self) -> int:
        """How much waits to be written."""
        return len(self._queue)

    def finish(self, id: str, lease: str, result: Result, ttl: float) -> None:
        self._add(
            id,
            sql.FINISH,
            {
                "id": id,
                "lease": lease,
                "status": result.status,
                "answer": kept_headers(result.headers),
                "result": result.body,
                "ttl": ttl,
            },
        )

    def release(self, id: str, lease: str, retry: Retry) -> None:
        self._add(id, sql.RELEASE, {"id": id, "lease": lease, "refund": int(retry.free), "delay": retry.delay})

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = self._batch()
                # Both statements do nothing the second time, so it is no matter whether a lost commit was made.
                await self._link.insist(lambda connection, batch=batch: _write(connection, batch))  # type: ignore[misc]
                del self._queue[: len(batch)]
                self.bytes -= sum(map(_size, batch))
                self._written([id for id, _, _ in batch])
            self._empty.set()

    async def flushed(self) -> None:
        """All that was said so far is in the table."""
        await self._empty.wait()

    def _batch(self) -> list[_Said]:
        """The first of the queue: at least one, and as many as fit into a transaction."""
        batch, size = self._queue[:1], 0
        for said in self._queue[1:_MOST_ROWS]:
            size += _size(said)
            if size > _MOST_BYTES:
                break
            batch.append(said)
        return batch

    def _add(self, id: str, statement: str, parameters: dict[str, Any]) -> None:
        said = id, statement, parameters
        self._queue.append(said)
        self.bytes += _size(said)
        self._empty.clear()
        self._wake.set()


def _size(said: _Said) -> int:
    return len(said[2].get("result", b""))


async def _write(connection: psycopg.AsyncConnection, batch: list[_Said]) -> None:
    async with connection.transaction(), connection.cursor() as cursor:
        for statement in (sql.FINISH, sql.RELEASE):
            rows = [parameters for _, asked, parameters in batch if asked == statement]
            if rows:
                await cursor.executemany(statement, rows)
