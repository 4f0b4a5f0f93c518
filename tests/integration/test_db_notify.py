"""What is written wakes who waits for it, once, and a write that changes nothing wakes nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine

from modelworks.db import claims, routes
from modelworks.db.engine import connect
from modelworks.db.listen import CLAIMS, Listener, notify
from modelworks.db.migrate import migrate
from modelworks.kernel.decision import Claim
from modelworks.kernel.run import Resources


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    migrate(database_url)
    engine = connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def listener(database_url: str, engine: Engine) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("LISTEN mw_routes")
        connection.execute("LISTEN mw_claims")
        yield connection


def heard(listener: psycopg.Connection) -> list[str]:
    """Channels of the notifications committed until now: a marker of our own comes after all of them."""
    listener.execute("NOTIFY mw_claims, 'marker'")
    channels: list[str] = []
    for note in listener.notifies(timeout=10):
        if note.payload == "marker":
            return channels
        channels.append(note.channel)
    raise AssertionError("the marker did not come")


def test_a_route_wakes_the_gateways_when_it_changes(engine: Engine, listener: psycopg.Connection) -> None:
    for route, changed in (({"state": "starting"}, True), ({"state": "starting"}, False), ({"state": "ready"}, True)):
        with engine.begin() as connection:
            assert routes.publish(connection, "default", "digits", "u1", route) is changed
        assert heard(listener) == ["mw_routes"] * changed
    with engine.begin() as connection:
        routes.withdraw(connection, "default", "digits", "u1")
    assert heard(listener) == ["mw_routes"]
    with engine.begin() as connection:
        routes.withdraw(connection, "default", "digits", "u1")
    assert heard(listener) == []


def test_a_new_claim_wakes_admission_at_once(engine: Engine, listener: psycopg.Connection) -> None:
    claim = Claim("0a1b2c/a1/0/0", "0a1b2c/a1", Resources.parse({}), "local.small", 0.01)
    for expected in (["mw_claims"], []):
        with engine.begin() as connection:
            claims.reserve(connection, "0a1b2c", [claim])
        assert heard(listener) == expected
    for expected in (["mw_claims"], []):
        with engine.begin() as connection:
            claims.release(connection, claim.key)
        assert heard(listener) == expected


def test_a_faulty_callback_silences_nobody(engine: Engine, database_url: str) -> None:
    arrived = threading.Event()

    def faulty(payload: str) -> None:
        raise RuntimeError("no idea")

    listener = Listener(database_url)
    listener.subscribe(CLAIMS, faulty)
    listener.subscribe(CLAIMS, lambda payload: arrived.set() if payload == "x" else None)
    listener.start()
    try:
        for _ in range(100):
            with engine.begin() as connection:
                notify(connection, CLAIMS, "x")
            if arrived.wait(0.1):
                break
        assert arrived.is_set()
        assert listener.is_alive()
    finally:
        listener.stop()
        listener.join(10)
