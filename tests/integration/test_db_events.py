"""Events: a cursor skips nothing, whatever the writers do at the same time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from modelworks.db import events
from modelworks.db.engine import connect
from modelworks.db.events import Cursor
from modelworks.db.listen import EVENTS, Listener
from modelworks.db.migrate import migrate
from modelworks.kernel.errors import Invalid
from modelworks.kernel.events import Level
from modelworks.kernel.resource import Ref

REF = Ref("default", "Sample", "a")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    migrate(database_url)
    engine = connect(database_url)
    yield engine
    engine.dispose()


def append(connection: Connection, message: str, uid: str = "u") -> None:
    events.append(connection, REF, uid, "Told", message)


def read_all(engine: Engine, cursor: Cursor) -> tuple[list[str], Cursor]:
    with engine.connect() as connection:
        page = events.read(connection, cursor, limit=7)
    return [event.message for event in page.items], page.cursor


def test_a_cursor_skips_nothing_under_concurrent_writers(engine: Engine) -> None:
    """Transactions of random length, some rolled back: the reader sees each committed event exactly once."""
    committed: set[str] = set()
    lock, done = threading.Lock(), threading.Event()

    def write(writer: int) -> None:
        choose = random.Random(writer)
        for index in range(25):
            with engine.connect() as connection:
                if choose.random() < 0.5:
                    # Takes its transaction number early and its event number late.
                    connection.execute(text("SELECT pg_current_xact_id()"))
                    time.sleep(choose.random() * 0.004)
                names = [f"{writer}-{index}-{n}" for n in range(choose.randint(1, 3))]
                for name in names:
                    append(connection, name)
                    time.sleep(choose.random() * 0.003)
                if choose.random() < 0.2:
                    connection.rollback()
                    continue
                with lock:
                    committed.update(names)
                connection.commit()

    seen: list[str] = []

    def read() -> None:
        cursor = Cursor()
        while True:
            last = done.is_set()
            found, cursor = read_all(engine, cursor)
            seen.extend(found)
            if last and not found:
                return

    writers = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join(30)
    assert len(seen) == len(set(seen))
    assert set(seen) == committed


def test_an_open_transaction_holds_later_events_back(engine: Engine) -> None:
    with engine.connect() as slow:
        append(slow, "first")
        with engine.begin() as quick:
            append(quick, "second")
        assert read_all(engine, Cursor())[0] == []
        slow.commit()
    assert read_all(engine, Cursor())[0] == ["first", "second"]


def test_filters_and_the_latest(engine: Engine) -> None:
    with engine.begin() as connection:
        for index in range(5):
            append(connection, str(index), uid="even" if index % 2 == 0 else "odd")
    with engine.connect() as connection:
        assert [e.message for e in events.read(connection, Cursor(), uid="odd").items] == ["1", "3"]
        assert events.read(connection, Cursor(), kind="Other").items == ()
        assert [e.message for e in events.latest(connection, "even", 2)] == ["2", "4"]
        head = events.head(connection)
    assert read_all(engine, head) == ([], head)
    with engine.begin() as connection:
        append(connection, "new")
    assert read_all(engine, head)[0] == ["new"]


def test_what_repeats_is_told_once(engine: Engine) -> None:
    with engine.begin() as connection:
        for message in ("a", "a", "b", "a"):
            events.append_once(connection, REF, "u", "Failed", message, Level.WARNING)
        assert [e.message for e in events.latest(connection, "u")] == ["a", "b", "a"]


def test_trim_by_count_and_age(engine: Engine) -> None:
    with engine.begin() as connection:
        for index in range(10):
            append(connection, str(index))
        assert events.trim(connection, keep=timedelta(days=1), most=4) == 6
        assert [e.message for e in events.latest(connection, "u")] == ["6", "7", "8", "9"]
        connection.execute(text("UPDATE events SET at = now() - interval '2 days' WHERE message < '8'"))
        assert events.trim(connection, keep=timedelta(days=1), most=100) == 2


def test_cursors_are_text() -> None:
    assert Cursor.parse(str(Cursor(3, 4))) == Cursor(3, 4)
    assert Cursor.parse("0") == Cursor()
    for wrong in ("", "x", "1.x", "-1", "1.2.3", "²", "9" * 30, f"{2**63}"):
        with pytest.raises(Invalid):
            Cursor.parse(wrong)


def test_listeners_are_woken_and_survive_a_cut(database_url: str, engine: Engine) -> None:
    heard: list[str] = []
    changed = threading.Condition()

    def hear(payload: str) -> None:
        with changed:
            heard.append(payload)
            changed.notify_all()

    def await_count(count: int) -> None:
        with changed:
            assert changed.wait_for(lambda: len(heard) >= count, 10)

    listener = Listener(database_url)
    listener.subscribe(EVENTS, hear)
    listener.start()
    await_count(1)  # connected: look at everything
    with engine.begin() as connection:
        append(connection, "x")
    await_count(2)
    with engine.begin() as connection:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'modelworks-listener'"
        connection.execute(text(f"{cut} AND datname = current_database()"))
    await_count(3)  # connected again
    listener.stop()
    listener.join(10)
    assert not listener.is_alive()
