"""What every courier looks at each second: the routes, who else lives, the depth of the queues; and what one of them
does for all: leases of those that died, results that have expired, tasks of services that are no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from modelworks.courier.counters import Counters
from modelworks.courier.database import Away, Link
from modelworks.courier.service import Service, parse
from modelworks.courier.submit import Submitter
from modelworks.db import tasks as sql

_ROUTES = "SELECT route::text FROM routes WHERE route -> 'tasks' NOT IN ('false', 'null') ORDER BY workspace, name"
_LOOK, _QUIET = 1.0, 5.0  # seconds between looks, with asynchronous services and without
_CLEAN = 10.0
_BATCH = 500
# Counting takes a share of the database's time, whatever the depth: so many times longer is the pause.
_SHARE = 20.0
log = logging.getLogger("modelworks.courier.house")


class House:
    """``changed`` is called with the services and the number of couriers when either is another than before.

    ``number`` of this courier is held as a lock of its session for as long as it lives and the database knows it.
    """

    def __init__(
        self,
        make_link: Callable[[Callable[[Any], Any], Callable[[], None]], Link],
        submitter: Submitter,
        counters: Callable[[str], Counters],
        changed: Callable[[dict[str, Service], int], None],
    ) -> None:
        self.number = secrets.randbelow(2**31 - 1) + 1
        self.keeper = False
        self._wake = asyncio.Event()
        self.link = make_link(self._enter, self._wake.set)
        self._submitter, self._counters, self._changed = submitter, counters, changed
        self._services: dict[str, Service] = {}
        self._documents: list[str] | None = None
        self._couriers = 1
        self._measure_at = self._clean_at = 0.0
        self._removed = True  # there may be tasks of a service that went while nobody looked

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(Away):
                now = loop.time()
                if self.keeper and (now >= self._clean_at or self._removed):
                    self._clean_at, self._removed = now + _CLEAN, False
                    await self._clean()
                await self.link.run(self._look)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK if self._services or self._documents is None else _QUIET):
                    await self._wake.wait()
            self._wake.clear()

    async def _enter(self, connection: psycopg.AsyncConnection) -> None:
        """On each new connection. Shared: an old session of ours may not have been given up yet."""
        self.keeper = False
        await connection.execute("SELECT pg_advisory_lock_shared(%s, %s)", (sql.LOCK_CLASS, self.number))
        # The others hear that there is one more to share the replicas with.
        await connection.execute("NOTIFY mw_routes")
        await connection.execute("LISTEN mw_routes")
        connection.add_notify_handler(lambda _: self._wake.set())

    async def _look(self, connection: psycopg.AsyncConnection) -> None:
        loop = asyncio.get_running_loop()
        if not self.keeper:
            row = await (await connection.execute("SELECT pg_try_advisory_lock(%s, 0)", (sql.LOCK_CLASS,))).fetchone()
            self.keeper = bool(row and row[0])
        documents = [str(row[0]) for row in await (await connection.execute(_ROUTES)).fetchall()]
        couriers = self._couriers
        living = [self.number]
        if documents:
            found = await (await connection.execute(sql.LIVING, (sql.LOCK_CLASS,))).fetchall()
            living = [int(row[0]) for row in found]
            couriers = max(1, len(living))
        if documents != self._documents or couriers != self._couriers:
            self._take(documents, couriers)
        if self._services:
            if self.keeper:
                terms = {"uids": list(self._services), "living": [str(number) for number in living]}
                done = await connection.execute(sql.REAP, terms)
                if done.rowcount > 0:
                    log.info("leases of a courier that is gone have ended", extra={"tasks": done.rowcount})
                    self._changed(self._services, self._couriers)
            if loop.time() >= self._measure_at:
                await self._measure(connection)

    def _take(self, documents: list[str], couriers: int) -> None:
        services, bad = parse(json.loads(document) for document in documents)
        for one in bad:
            log.error("a route is left out: %s", one)
        self._removed = self._removed or bool(set(self._services) - set(services))
        self._documents, self._couriers, self._services = documents, couriers, services
        self._changed(services, couriers)

    async def _measure(self, connection: psycopg.AsyncConnection) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        rows = await (await connection.execute(sql.DEPTHS, (list(self._services),))).fetchall()
        found = {uid: (pending, running, oldest) for uid, pending, running, oldest in rows}
        for uid in self._services:
            pending, running, oldest = found.get(uid, (0, 0, 0.0))
            counters = self._counters(uid)
            counters.pending, counters.running, counters.oldest = pending, running, oldest
            self._submitter.open[uid] = pending + running
        now = loop.time()
        self._measure_at = now + min(max(_LOOK * 0.9, (now - began) * _SHARE), 30.0)

    async def _clean(self) -> None:
        for statement in (sql.EXPIRE, sql.REMOVE_ORPHANS):
            while await self.link.run(lambda connection, asked=statement: _delete(connection, asked)) == _BATCH:  # type: ignore[misc]
                continue


async def _delete(connection: psycopg.AsyncConnection, statement: str) -> int:
    return (await connection.execute(statement, (_BATCH,))).rowcount


def services_by_name(
    services: Mapping[str, Service], counters: Callable[[str], Counters]
) -> list[tuple[str, Counters]]:
    """For the metrics."""
    return [(service.route.service, counters(uid)) for uid, service in services.items()]
