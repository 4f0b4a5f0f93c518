"""Where the table comes from: PostgreSQL, told by NOTIFY, polled besides; a snapshot on disk for when it is down."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import psycopg

from modelworks.gateway.table import Table
from modelworks.home import Home

_POLL = 5.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.2, 5.0
_CONNECT_TIMEOUT = 5
_SELECT = "SELECT route::text FROM routes ORDER BY workspace, name"
log = logging.getLogger("modelworks.gateway.source")


class Source:
    """Calls ``changed`` with a table whenever the routes differ from what was told before."""

    def __init__(self, home: Home, changed: Callable[[Table], None]) -> None:
        self._home = home
        self._changed = changed
        self._documents: list[str] | None = None

    def load_snapshot(self) -> bool:
        """Start with what was last known; False when nothing is."""
        try:
            documents = json.loads(self._home.gateway_snapshot.read_text())["routes"]
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError, OSError) as error:
            log.warning("the routes' snapshot cannot be read: %s", error)
            return False
        self._tell([json.dumps(d) for d in documents])
        return True

    async def follow(self) -> None:
        """Follow the database until cancelled, through its restarts."""
        backoff = _FIRST_BACKOFF
        while True:
            try:
                async with await self._connect() as connection:
                    backoff = _FIRST_BACKOFF
                    await self._listen(connection)
            except (psycopg.Error, OSError, ValueError, KeyError) as error:
                log.warning("no routes from the database, going on with those known: %s", _line(error))
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def _connect(self) -> psycopg.AsyncConnection:
        url = str(json.loads((self._home.secrets / "database.json").read_text())["url"])
        return await psycopg.AsyncConnection.connect(
            libpq_url(url), autocommit=True, connect_timeout=_CONNECT_TIMEOUT, application_name="mw-gateway"
        )

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        await connection.execute("LISTEN mw_routes")
        while True:
            rows = await (await connection.execute(_SELECT)).fetchall()
            documents = [str(row[0]) for row in rows]
            if documents != self._documents:
                self._tell(documents)
                _write(self._home.gateway_snapshot, documents)
            async for _ in connection.notifies(timeout=_POLL, stop_after=1):
                pass

    def _tell(self, documents: list[str]) -> None:
        table = Table.parse([json.loads(d) for d in documents])
        for bad in table.bad:
            log.error("a route is left out: %s", bad)
        self._changed(table)
        self._documents = documents


def libpq_url(url: str) -> str:
    """SQLAlchemy's URL as libpq reads it: without the driver's name."""
    scheme, separator, rest = url.partition("://")
    return scheme.partition("+")[0] + separator + rest


def _write(path: Path, documents: list[str]) -> None:
    """Replace the snapshot whole, or not at all. It holds token digests: only for us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write('{"routes": [' + ",\n".join(documents) + "]}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
