"""Admission on real tables: room is never given twice, the ledger begins with the placement, reasons are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from modelworks.control.scheduler import admit
from modelworks.db import claims, ledger, nodes, resources
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.kernel.decision import Claim
from modelworks.kernel.resource import Ref, Resource
from modelworks.kernel.run import NodeObservation, Resources


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    migrate(database_url)
    engine = connect(database_url)
    with engine.begin() as connection:
        nodes.put(connection, NodeObservation(name="a", capacity=Resources.parse({"cpu": 2, "memory": "4Gi"})))
    yield engine
    engine.dispose()


def want(engine: Engine, name: str, cpu: int = 1, count: int = 1) -> Resource:
    with engine.begin() as connection:
        made = resources.insert_new(connection, Ref("default", "Sample", name), {}, {}, {})
        assert made is not None
        reserve(connection, made, "a", cpu, count)
    return made


def reserve(
    connection: Connection, made: Resource, attempt: str, cpu: int = 1, count: int = 1, lasting: bool = False
) -> None:
    shape = Resources.parse({"cpu": cpu, "memory": "1Gi"})
    wishes = [
        Claim(f"{made.uid}/{attempt}/{n}/0", attempt, shape, "local.small", 0.5, lasting=lasting) for n in range(count)
    ]
    claims.reserve(connection, made.uid, wishes)


def placed(engine: Engine, made: Resource) -> list[str | None]:
    with engine.connect() as connection:
        return [claim.node for claim in claims.of(connection, [made.uid]).get(made.uid, [])]


def reason(engine: Engine, made: Resource) -> str:
    with engine.connect() as connection:
        return claims.of(connection, [made.uid])[made.uid][0].reason


def ledger_rows(engine: Engine) -> list[tuple[str, bool]]:
    with engine.connect() as connection:
        query = "SELECT name, ended_at IS NULL FROM ledger ORDER BY id"
        return [tuple(row) for row in connection.execute(text(query))]


def test_places_in_order_and_tells_the_others_why(engine: Engine) -> None:
    first, second, third = want(engine, "first"), want(engine, "second"), want(engine, "third")
    assert admit(engine)
    assert placed(engine, first) == placed(engine, second) == ["a"]
    assert placed(engine, third) == [None]
    assert reason(engine, third).startswith("waits for capacity: needs 1 CPU")
    assert ledger_rows(engine) == [("first", True), ("second", True)]
    with engine.begin() as connection:
        claims.release(connection, f"{first.uid}/a/0/0")
        ledger.end(connection, f"{first.uid}/a/0/0")
    assert not admit(engine)
    assert placed(engine, third) == ["a"]
    assert not admit(engine)
    assert ledger_rows(engine) == [("first", False), ("second", True), ("third", True)]


@pytest.mark.parametrize("lasting", [False, True], ids=["of a job", "of a service"])
def test_what_is_queued_again_has_the_place_of_its_submission(engine: Engine, lasting: bool) -> None:
    old, other = want(engine, "old"), want(engine, "other")
    admit(engine)
    young = want(engine, "young")
    with engine.begin() as connection:
        claims.release(connection, f"{old.uid}/a/0/0")
        claims.release(connection, f"{other.uid}/a/0/0")
    with engine.begin() as connection:
        full = resources.insert_new(connection, Ref("default", "Sample", "full"), {}, {}, {})
        assert full is not None
        reserve(connection, full, "a")
        reserve(connection, old, "b", lasting=lasting)
    with engine.begin() as connection:
        connection.execute(text("UPDATE nodes SET observation = jsonb_set(observation, '{capacity,cpu}', '\"1000m\"')"))
    admit(engine)
    assert (placed(engine, old), placed(engine, young)) == ((["a"], [None]) if not lasting else ([None], ["a"]))
    assert placed(engine, full) == [None]


def test_gangs_wait_whole(engine: Engine) -> None:
    single, gang = want(engine, "single"), want(engine, "gang", count=2)
    admit(engine)
    assert placed(engine, single) == ["a"]
    assert placed(engine, gang) == [None, None]


def test_the_same_reason_is_written_once(engine: Engine) -> None:
    big = want(engine, "big", cpu=64)
    admit(engine)
    assert reason(engine, big) == "larger than any node: needs 64 CPU, the largest has 2 CPU"
    with engine.begin() as connection:
        (held,) = resources.lease_due(connection, "me", 10, 60)
        resources.settle(connection, [resources.Settled(held, None)])
    admit(engine)
    with engine.connect() as connection:
        assert resources.next_due(connection) is None


def test_a_silent_node_gets_nothing_new(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE nodes SET seen_at = now() - interval '1 hour'"))
    made = want(engine, "x")
    admit(engine)
    assert reason(engine, made) == "node a does not answer"


def test_many_schedulers_never_give_room_twice(engine: Engine) -> None:
    everybody = [want(engine, f"r{index}") for index in range(10)]
    threads = [threading.Thread(target=admit, args=(engine,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(placed(engine, made) == ["a"] for made in everybody) == 2
    assert len(ledger_rows(engine)) == 2
