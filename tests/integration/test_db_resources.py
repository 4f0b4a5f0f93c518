"""Rows of resources: pages, leases that exclude each other, requests that are never lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from modelworks.db import resources
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.db.resources import Lease, LeaseLost, Settled
from modelworks.kernel.errors import Invalid, Unavailable
from modelworks.kernel.resource import Ref, Resource


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    migrate(database_url)
    engine = connect(database_url)
    yield engine
    engine.dispose()


def make(engine: Engine, name: str = "a", **labels: str) -> Resource:
    with engine.begin() as connection:
        made = resources.insert_new(connection, Ref("default", "Sample", name), {"n": 1}, {}, labels)
    assert made is not None
    return made


def lease(engine: Engine, *uids: str, owner: str = "me") -> list[Lease]:
    with engine.begin() as connection:
        if uids:
            return resources.lease_these(connection, owner, uids, 60)
        return resources.lease_due(connection, owner, 100, 60)


def settle(engine: Engine, held: Lease, wake_in: float | None = None) -> float | None:
    with engine.begin() as connection:
        return resources.settle(connection, [Settled(held, wake_in)])[held.resource.uid]


def test_pages_hold_everything_once(engine: Engine) -> None:
    names = [f"r{i:03}" for i in range(25)]
    for name in reversed(names):
        make(engine, name, parity="even" if int(name[1:]) % 2 == 0 else "odd")
    seen, cursor = [], None
    with engine.connect() as connection:
        while True:
            page = resources.page(connection, "Sample", workspace="default", limit=10, cursor=cursor)
            seen += [item.ref.name for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == names
        odd = resources.page(connection, "Sample", labels={"parity": "odd"})
        assert len(odd.items) == 12
        assert odd.next_cursor is None
        assert resources.page(connection, "Other").items == ()
        for wrong in ("x", "!!", "WzFd", "é"):
            with pytest.raises(Invalid):
                resources.page(connection, "Sample", cursor=wrong)


def test_the_same_name_is_stored_once(engine: Engine) -> None:
    make(engine)
    with engine.begin() as connection:
        assert resources.insert_new(connection, Ref("default", "Sample", "a"), {}, {}, {}) is None


def test_a_lease_excludes_everybody_else(engine: Engine) -> None:
    made = make(engine)
    (held,) = lease(engine)
    assert lease(engine) == []
    assert lease(engine, made.uid) == []
    assert settle(engine, held) is None
    assert lease(engine) == []
    assert [again.resource.uid for again in lease(engine, made.uid)] == [made.uid]


def test_leases_of_many_at_once_never_overlap(engine: Engine) -> None:
    for index in range(60):
        make(engine, f"r{index}")
    taken: list[str] = []

    def work() -> None:
        for _ in range(10):
            with engine.begin() as connection:
                found = resources.lease_due(connection, "w", 5, 60)
            taken.extend(held.resource.uid for held in found)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 60


def test_a_request_during_a_pass_is_not_lost(engine: Engine) -> None:
    made = make(engine)
    (held,) = lease(engine)
    with engine.begin() as connection:
        resources.wake(connection, [made.uid])
    due_in = settle(engine, held, wake_in=None)
    assert due_in is not None
    assert due_in <= 0
    assert len(lease(engine)) == 1


def test_a_lease_that_expired_is_worth_nothing(engine: Engine) -> None:
    make(engine)
    (old,) = lease(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE resources SET lease_expires = now() - interval '1 second'"))
    (new,) = lease(engine)
    with engine.begin() as connection, pytest.raises(LeaseLost):
        resources.write_status(connection, old, {"phase": "Wrong"}, None)
    with engine.begin() as connection:
        assert not resources.renew(connection, old, 60)
        assert resources.renew(connection, new, 60)
        resources.write_status(connection, new, {"phase": "Right"}, None)
        stored = resources.get_by_uid(connection, new.resource.uid)
    assert stored is not None
    assert stored.status == {"phase": "Right"}
    assert stored.version > new.resource.version


def test_a_row_that_was_leased_by_request_is_due_after_a_crash(engine: Engine) -> None:
    """The lease of a sleeping row makes it due: whoever took it may die."""
    made = make(engine)
    (held,) = lease(engine)
    settle(engine, held)
    (_,) = lease(engine, made.uid, owner="dying")
    with engine.begin() as connection:
        assert resources.disown(connection, "dyin") == 0
        assert resources.disown(connection, "dying") == 1
    assert len(lease(engine)) == 1


def test_sleeping_rows_cost_nothing(engine: Engine) -> None:
    make(engine)
    (held,) = lease(engine)
    settle(engine, held)
    with engine.begin() as connection:
        assert resources.next_due(connection) is None
    assert lease(engine) == []


def test_rows_wake_when_they_asked_to(engine: Engine) -> None:
    made = make(engine)
    (held,) = lease(engine)
    due_in = settle(engine, held, wake_in=100)
    assert due_in == pytest.approx(100, abs=10)
    with engine.begin() as connection:
        assert resources.next_due(connection) == pytest.approx(100, abs=10)
        connection.execute(text("UPDATE resources SET wake_at = now() - interval '1 second'"))
    assert [held.resource.uid for held in lease(engine)] == [made.uid]


def test_nul_in_a_status_is_stored_as_a_replacement(engine: Engine) -> None:
    """A log line that a status quotes may hold anything; jsonb may not."""
    make(engine)
    (held,) = lease(engine)
    with engine.begin() as connection:
        resources.write_status(connection, held, {"message": "a\0b", "lines": ["\\u0000", "c\0"]}, None)
        stored = resources.get_by_uid(connection, held.resource.uid)
    assert stored is not None
    assert stored.status == {"message": "a\ufffdb", "lines": ["\\u0000", "c\ufffd"]}


def test_an_ended_session_is_unavailable_and_the_next_call_works(engine: Engine) -> None:
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with engine.begin() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(Unavailable):
            connection.execute(text("SELECT 1"))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
