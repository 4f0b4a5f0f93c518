"""A refusal waits until the routes have been read once more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url
from tests.gateway_lab import QUICK, Lab, document, request
from tests.integration.test_gateway_proxy import run

from modelworks.gateway import source
from modelworks.gateway.source import Source, libpq_url
from modelworks.gateway.table import Table
from modelworks.home import Home

ROUTES = "CREATE TABLE routes (workspace text, name text, uid text, route jsonb, PRIMARY KEY (workspace, name))"


class Asked:
    """Stands for the source: keeps who asks, and answers when the test says so."""

    def __init__(self, lab: Lab, *, connected: bool = True) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.connected = connected
        self.count = 0
        self._came = asyncio.Event()
        lab.gateway.refresh = self._refresh

    def _refresh(self, done: Callable[[], None]) -> bool:
        self.count += 1
        if self.connected:
            self.waiting.append(done)
            self._came.set()
        return self.connected

    async def came(self) -> None:
        async with asyncio.timeout(5):
            await self._came.wait()
        self._came.clear()

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done()


@pytest.mark.parametrize("before", [None, {"state": "starting", "replicas": []}, {"token_sha256": ["00" * 32]}])
def test_a_request_that_comes_before_its_route_is_answered(tmp_path: Path, before: dict[str, Any] | None) -> None:
    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        if before is not None:
            lab.route(replica, **before)
        asked = Asked(lab)
        client = await lab.client()
        await client.send(request(b"early"))
        await asked.came()
        lab.route(replica)
        asked.answer()
        assert (await client.answer())[::2] == (200, b"early")
        assert (await client.post(b"next"))[::2] == (200, b"next")
        assert asked.count == 1

    run(tmp_path, test)


def test_its_body_may_come_later_and_in_chunks(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        asked = Asked(lab)
        client = await lab.client()
        data = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        await client.send(data + b"3\r\nabc\r\n")
        await asked.came()
        await client.send(b"2\r\nde\r\n0\r\n\r\n" + request(b"pipelined"))
        lab.route(replica)
        asked.answer()
        assert (await client.answer())[2] == b"abcde"
        assert (await client.answer())[2] == b"pipelined"

    run(tmp_path, test)


def test_what_is_refused_still_is_refused_then(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        asked = Asked(lab)
        client = await lab.client()
        await client.send(request())
        await asked.came()
        asked.answer()
        assert (await client.answer())[0] == 404
        assert asked.count == 1

    run(tmp_path, test)


def test_it_does_not_wait_for_long(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        asked = Asked(lab)
        client = await lab.client()
        assert (await client.post())[0] == 404  # nobody answers the question
        assert asked.count == 1

    run(tmp_path, test, replace(QUICK, routes_wait=0.1))


def test_without_a_database_it_is_refused_at_once(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        asked = Asked(lab, connected=False)
        client = await lab.client()
        assert (await client.post())[0] == 404
        assert asked.count == 1

    run(tmp_path, test, replace(QUICK, routes_wait=1000.0))


def test_without_a_token_nothing_is_asked(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        lab.route(await lab.replica())
        asked = Asked(lab)
        client = await lab.client()
        assert (await client.post(extra=""))[0] == 401
        assert asked.count == 0

    run(tmp_path, test)


def test_a_client_that_leaves_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        asked = Asked(lab)
        client = await lab.client()
        await client.send(request())
        await asked.came()
        for connection in list(lab.gateway.clients):
            connection.abort()
        async with asyncio.timeout(5):
            while lab.gateway.clients:
                await asyncio.sleep(0.005)
        lab.route(replica)
        asked.answer()
        assert replica.heads == []

    run(tmp_path, test)


class Followed:
    """A source that follows a database in this loop."""

    def __init__(self, home: Home, url: str) -> None:
        home.secrets.mkdir(parents=True, exist_ok=True)
        (home.secrets / "database.json").write_text(json.dumps({"url": url}))
        self.tables: list[Table] = []
        self.source = Source(home, self.tables.append)

    async def asked(self) -> None:
        """Ask until the source is connected, and wait for the reading."""
        done = asyncio.Event()
        async with asyncio.timeout(10):
            while not self.source.refresh(done.set):
                await asyncio.sleep(0.01)
            await done.wait()

    async def run(self, test: Callable[[], Any]) -> None:
        following = asyncio.create_task(self.source.follow())
        try:
            await test()
        finally:
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                await following


def test_who_asks_gets_what_was_written_before_without_a_notification(home: Home, database_url: str) -> None:
    followed = Followed(home, database_url)

    async def test() -> None:
        async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as database:
            await followed.asked()  # there is no table yet
            assert followed.tables == []
            await database.execute(ROUTES)
            for i in range(3):
                route = json.dumps(document(service=f"s{i}"))
                await database.execute("INSERT INTO routes VALUES ('default', %s, 'u', %s)", [f"s{i}", route])
                await followed.asked()
                assert f"s{i}" in followed.tables[-1].routes

    asyncio.run(followed.run(test))


def test_a_change_costs_what_has_changed_and_no_request_waits_for_the_disk(
    home: Home, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = Followed(home, database_url)
    writers: list[threading.Thread] = []
    write = source._write

    def watched(path: Path, documents: list[str]) -> None:
        writers.append(threading.current_thread())
        write(path, documents)

    monkeypatch.setattr(source, "_write", watched)

    async def test() -> None:
        async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as database:
            await database.execute(ROUTES)
            for i in range(2):
                route = json.dumps(document(service=f"s{i}"))
                await database.execute("INSERT INTO routes VALUES ('default', %s, 'u', %s)", [f"s{i}", route])
                await followed.asked()
            former, latest = followed.tables[-2:]
            assert latest.routes["s0"] is former.routes["s0"]
            await database.execute("UPDATE routes SET route = route || '{\"queue_size\": 7}' WHERE name = 's0'")
            await followed.asked()
            assert followed.tables[-1].routes["s0"].queue_size == 7
            assert followed.tables[-1].routes["s1"] is latest.routes["s1"]
            await followed.asked()  # the one before it has been written by now
            assert '"queue_size": 7' in home.gateway_snapshot.read_text()

    asyncio.run(followed.run(test))
    assert writers
    assert threading.main_thread() not in writers


def test_a_flood_of_questions_is_a_few_readings(home: Home, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = Followed(home, database_url)
    readings = 0
    read = Source._read

    async def counted(self: Source, connection: psycopg.AsyncConnection) -> bool:
        nonlocal readings
        readings += 1
        return await read(self, connection)

    monkeypatch.setattr(Source, "_read", counted)

    async def test() -> None:
        async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as database:
            await database.execute(ROUTES)
        await followed.asked()
        start = time.monotonic()
        count = readings
        for _ in range(4):
            await asyncio.gather(*(followed.asked() for _ in range(500)))
        # Each of the four rounds is one reading, and from one to the next there is a pause.
        assert readings - count == 4
        assert time.monotonic() - start >= 3 * 0.1

    asyncio.run(followed.run(test))


class Middle:
    """A socket before PostgreSQL's. What comes while it is ``silent`` does not pass, nor anything after it."""

    def __init__(self, path: Path, far: str) -> None:
        self.path, self.far, self.silent = path, far, False
        self.stuck = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self._writers.append(back)
        reader, writer = await asyncio.open_unix_connection(self.far)
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self._pass(near, writer), self._pass(reader, back))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.silent:
                self.stuck += 1
                await asyncio.Event().wait()
            writer.write(data)
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self.serve, str(self.path))
        try:
            yield
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()


def test_a_database_that_vanishes_in_the_middle_is_connected_to_anew(
    home: Home, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(source, "_LONGEST_ANSWER", 0.3)
    url = make_url(database_url)
    name = f".s.PGSQL.{url.query.get('port') or url.port or 5432}"
    middle = Middle(tmp_path / name, f"{url.query['host']}/{name}")
    followed = Followed(home, url.update_query_dict({"host": str(tmp_path)}).render_as_string(hide_password=False))

    async def test() -> None:
        async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as database:
            await database.execute(ROUTES)
            await followed.asked()
            middle.silent = True
            followed.source.refresh(lambda: None)
            async with asyncio.timeout(10):
                while not middle.stuck:
                    await asyncio.sleep(0.01)
            route = json.dumps(document(service="s"))
            await database.execute("INSERT INTO routes VALUES ('default', 's', 'u', %s)", [route])
            async with asyncio.timeout(10):
                while "PostgreSQL has not answered for 0.3 s" not in caplog.text:
                    await asyncio.sleep(0.01)
            middle.silent = False
            await followed.asked()
            assert "s" in followed.tables[-1].routes

    async def body() -> None:
        async with middle.listening():
            await followed.run(test)

    asyncio.run(body())


def test_a_missing_schema_and_a_missing_database_are_told_once(
    home: Home, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "modelworks.gateway.source")
    followed = Followed(home, database_url)

    async def test() -> None:
        async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as database:
            for _ in range(3):
                await followed.asked()
            assert [r.message for r in caplog.records] == ["the database has no routes yet: its schema is being made"]
            await database.execute(ROUTES)
            await followed.asked()
            assert caplog.records[-1].message == "the routes come from the database"
            # Its connection is gone: who asks then is refused at once, until it is back.
            (home.secrets / "database.json").unlink()
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mw-gateway' "
                "AND datname = current_database()"
            )
            async with asyncio.timeout(10):
                while followed.source.refresh(lambda: None):
                    await asyncio.sleep(0.01)

    asyncio.run(followed.run(test))
