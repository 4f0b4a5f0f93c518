"""Where the table comes from: PostgreSQL, told by NOTIFY, polled besides; a snapshot on disk for when it is down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import psycopg.errors

from modelworks.gateway.table import Route, Table, read
from modelworks.home import Home

_POLL = 5.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.2, 2.0
_CONNECT_TIMEOUT = 5
_LONGEST_ANSWER = 10.0  # seconds
# Seconds between readings that are only asked for; doubled while they find nothing new.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 0.5
_STUCK = 1.0
_SELECT = "SELECT route::text FROM routes ORDER BY workspace, name"
log = logging.getLogger("modelworks.gateway.source")


class Source:
    """Calls ``changed`` with a table whenever the routes differ from what was told before."""

    def __init__(self, home: Home, changed: Callable[[Table], None]) -> None:
        self._home = home
        self._changed = changed
        self._documents: list[str] | None = None
        self._routes: dict[str, Route | str] = {}  # what each document says
        self._complaint = ""  # the last one logged: the same is not said again
        self._wake = asyncio.Event()
        self._asking: list[Callable[[], None]] = []
        self._connected = False
        self._began = self._ended = 0.0  # of the last reading
        self._pause = _SHORTEST_PAUSE

    def refresh(self, done: Callable[[], None]) -> bool:
        """Call ``done`` after the next reading that begins from now on. False when the database does not answer.

        However many ask, there are few readings: all who ask meanwhile share one, and the next comes after a pause.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._connected or (self._began > self._ended and now > self._began + _STUCK):
            return False
        self._asking.append(done)
        if len(self._asking) == 1:
            loop.call_at(max(now, max(self._began, self._ended) + self._pause), self._wake.set)
        return True

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
                self._complain(f"no routes from the database, going on with those known: {_line(error)}")
            finally:
                self._connected = False
                self._answer(self._take_asking())
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def _connect(self) -> psycopg.AsyncConnection:
        url = str(json.loads((self._home.secrets / "database.json").read_text())["url"])
        return await psycopg.AsyncConnection.connect(
            libpq_url(url), autocommit=True, connect_timeout=_CONNECT_TIMEOUT, application_name="mw-gateway"
        )

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        connection.add_notify_handler(lambda _: self._wake.set())
        with _cut_when_silent(connection):
            await connection.execute("LISTEN mw_routes")
        self._connected = True
        while True:
            self._wake.clear()  # what is told from here on is told of a table that is about to be read
            asking = self._take_asking()
            try:
                found = await self._read(connection)
            finally:
                self._answer(asking)
            if found and self._documents is not None:
                # Not here: a disk may take its time, and every request would wait for it.
                await asyncio.to_thread(_write, self._home.gateway_snapshot, self._documents)
            self._pause = _SHORTEST_PAUSE if found else min(self._pause * 2, _LONGEST_PAUSE)
            await self._until_woken(connection.fileno())

    async def _read(self, connection: psycopg.AsyncConnection) -> bool:
        """Read the routes; True when they are others than before."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        try:
            with _cut_when_silent(connection):
                rows = await (await connection.execute(_SELECT)).fetchall()
        except psycopg.errors.UndefinedTable:
            self._complain("the database has no routes yet: its schema is being made")
            return False
        finally:
            self._ended = loop.time()
        if self._complaint:
            log.info("the routes come from the database")
            self._complaint = ""
        documents = [str(row[0]) for row in rows]
        if documents == self._documents:
            return False
        self._tell(documents)
        return True

    async def _until_woken(self, fd: int) -> None:
        """Until the connection has something to say (a notification, or its end), somebody asks, or the poll is due."""
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, self._wake.set)
        try:
            async with asyncio.timeout(_POLL):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(fd)

    def _take_asking(self) -> list[Callable[[], None]]:
        asking, self._asking = self._asking, []
        return asking

    def _answer(self, asking: list[Callable[[], None]]) -> None:
        for done in asking:
            done()

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.warning("%s", complaint)
            self._complaint = complaint

    def _tell(self, documents: list[str]) -> None:
        # Of many services few change at once: those that did not are not read anew.
        self._routes = {d: self._routes.get(d) or read(json.loads(d)) for d in documents}
        table = Table.of(self._routes.values())
        for bad in table.bad:
            log.error("a route is left out: %s", bad)
        self._changed(table)
        self._documents = documents


@contextlib.contextmanager
def _cut_when_silent(connection: psycopg.AsyncConnection) -> Iterator[None]:
    """Raises TimeoutError when there is no answer in time. Of a host that is gone TCP tells after a quarter of an hour.

    The connection is cut below psycopg: when a query of its is cancelled, it asks the server to end that, and waits.
    """
    silent = False

    def cut() -> None:
        nonlocal silent
        silent = True
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as direct:
            direct.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(_LONGEST_ANSWER, cut)
    try:
        yield
    except psycopg.Error as error:
        if silent:
            raise TimeoutError(f"PostgreSQL has not answered for {_LONGEST_ANSWER:g} s") from error
        raise
    finally:
        timer.cancel()


def libpq_url(url: str) -> str:
    """SQLAlchemy's URL as libpq reads it: without the driver's name."""
    scheme, separator, rest = url.partition("://")
    return scheme.partition("+")[0] + separator + rest


def _write(path: Path, documents: list[str]) -> None:
    """Replace the snapshot whole, or not at all. It holds token digests: only for us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # other gateways write it too
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write('{"routes": [' + ",\n".join(documents) + "]}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
