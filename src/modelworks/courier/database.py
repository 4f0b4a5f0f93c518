"""Connections to PostgreSQL that come back: whoever uses one is told when it is away, and nothing else of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import psycopg.errors

from modelworks.gateway.source import libpq_url
from modelworks.home import Home

Work = Callable[[psycopg.AsyncConnection], Awaitable["T"]]
T = TypeVar("T")

_CONNECT_TIMEOUT = 5
_OPTIONS = "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"
# Longer than any statement may take: a server that says nothing at all is not waited for.
_LONGEST_WORK = 60.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 1.0
# What passes by itself: a server that is away or starting, a statement that took too long, a schema still to be made.
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.UndefinedTable, OSError, ValueError, KeyError)
log = logging.getLogger("modelworks.courier.database")


class Away(Exception):
    """The database does not answer now. What was asked may have been done, or not."""


class Link:
    """One connection in autocommit mode, used by one caller at a time.

    ``prepare`` runs on each new one; ``stirred`` is called when it has something to say while nobody asks it: a
    notification, or its end.
    """

    def __init__(
        self, home: Home, name: str, prepare: Work[None] | None = None, stirred: Callable[[], None] | None = None
    ) -> None:
        self._home, self._name, self._prepare, self._stirred = home, name, prepare, stirred
        self._watched: int | None = None
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection | None = None
        self._complaint = ""

    async def run(self, work: Work[T]) -> T:
        """What ``work`` returns. Raises Away."""
        async with self._lock:
            self._unwatch()
            try:
                connection = self._connection
                if connection is None or connection.closed:
                    connection = self._connection = await self._connect()
                async with asyncio.timeout(_LONGEST_WORK):
                    found = await work(connection)
            except _AWAY as error:
                await self._drop()
                reason = " ".join(str(error).split()) or type(error).__name__
                if reason != self._complaint:
                    log.warning("the database does not answer (%s): %s", self._name, reason)
                    self._complaint = reason
                raise Away(reason) from error
            except BaseException:
                await self._drop()  # cancelled in the middle, or our mistake: its state is not known
                raise
            self._complaint = ""
            self._watch(connection)
            return found

    async def insist(self, work: Work[T]) -> T:
        """As ``run``, again and again until the database answers: for what may be done twice."""
        backoff = _FIRST_BACKOFF
        while True:
            try:
                return await self.run(work)
            except Away:
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _connect(self) -> psycopg.AsyncConnection:
        url = str(json.loads((self._home.secrets / "database.json").read_text("utf-8"))["url"])
        connection = await psycopg.AsyncConnection.connect(
            libpq_url(url),
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT,
            application_name=f"mw-courier-{self._name}",
            options=_OPTIONS,
        )
        if self._prepare is not None:
            try:
                await self._prepare(connection)
            except BaseException:
                await connection.close()
                raise
        return connection

    def _watch(self, connection: psycopg.AsyncConnection) -> None:
        if self._stirred is not None and not connection.closed:
            self._watched = connection.fileno()
            asyncio.get_running_loop().add_reader(self._watched, self._stir)

    def _unwatch(self) -> None:
        """Before anybody else waits for the descriptor, and before it is closed: its number is soon another's."""
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None

    def _stir(self) -> None:
        self._unwatch()
        if self._stirred is not None:
            self._stirred()

    async def _drop(self) -> None:
        self._unwatch()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
