"""A platform that moves from its own machine to a cluster, and back: nothing waits for what is no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine

from modelworks.control import nodes as control_nodes
from modelworks.control.doors import Door
from modelworks.control.fleet import Fleet
from modelworks.control.leases import MARGIN, boottime
from modelworks.control.nodes import Nodes
from modelworks.control.scheduler import admit
from modelworks.control.world import FleetWorld
from modelworks.db import claims, nodes, reservations, resources
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.kernel.decision import Claim
from modelworks.kernel.errors import Unavailable
from modelworks.kernel.resource import Ref, Resource
from modelworks.kernel.run import NodeObservation, Resources, RunObservation, RunPhase, RunReason
from modelworks.settings import Settings


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    migrate(database_url)
    engine = connect(database_url)
    yield engine
    engine.dispose()


class Nobody:
    """A source that knows of no node yet."""

    def doors(self) -> Sequence[Door]:
        return ()


def here(engine: Engine, name: str, lease: float | None) -> None:
    capacity = Resources.parse({"cpu": 2, "memory": "4Gi"})
    with engine.begin() as connection:
        nodes.put(connection, NodeObservation(name=name, capacity=capacity, lease=lease))


def want(engine: Engine) -> Resource:
    with engine.begin() as connection:
        made = resources.insert_new(connection, Ref("default", "TrainingJob", "digits"), {}, {}, {})
        assert made is not None
        shape = Resources.parse({"cpu": 1, "memory": "1Gi"})
        claims.reserve(connection, made.uid, [Claim(f"{made.uid}/a1/0/0", "a1", shape, "local.small", 0.5)])
    return made


def runs(engine: Engine, fleet: Fleet, made: Resource) -> Sequence[RunObservation]:
    with engine.connect() as connection:
        wanted = claims.of(connection, [made.uid])
        return FleetWorld(connection, Settings(), fleet, wanted, [made]).runs(made.uid)


def test_what_the_machine_ran_is_lost_on_a_cluster_and_may_go_on_there(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(engine, "laptop", None)
    made = want(engine)
    admit(engine)
    woken: list[str] = []
    fleet = Fleet(expected=0)
    watch = Nodes([Nobody()], fleet, engine, woken.append, tmp_path / "lock")
    watch.look()
    with pytest.raises(Unavailable):
        runs(engine, fleet, made)
    with engine.connect() as connection:
        (node,) = nodes.everything(connection)
        assert node.away_at is not None
    monkeypatch.setattr(control_nodes, "boottime", lambda: boottime() + MARGIN)
    watch.look()
    (run,) = runs(engine, fleet, made)
    assert woken == [made.uid]
    assert (run.phase, run.reason) == (RunPhase.LOST, RunReason.LOST)
    assert run.message.startswith("node laptop takes no work any more, since the platform has moved to a cluster")
    with engine.begin() as connection:
        claims.release_all(connection, made.uid)
    monkeypatch.setattr(control_nodes, "boottime", lambda: boottime() + 100)
    watch.look()
    with engine.connect() as connection:
        assert nodes.everything(connection) == []
    watch.stop()


def test_room_that_no_cluster_has_granted_is_looked_for_on_the_machine_again(engine: Engine, tmp_path: Path) -> None:
    here(engine, "n1", 15.0)
    made = want(engine)
    admit(engine, reserve=True)
    with engine.connect() as connection:
        assert [one.granted for one in reservations.everything(connection)] == [False]
    here(engine, "laptop", None)
    with engine.begin() as connection:
        (claim,) = claims.of(connection, [made.uid])[made.uid]
        assert claims.evict(connection, [claim.key], 30.0, "node n1 is drained", "other/a1") == [made.uid]
        nodes.away(connection, "n1")
    watch = Nodes([Nobody()], Fleet(expected=1), engine, lambda uid: None, tmp_path / "lock")
    watch.look()
    admit(engine)
    with engine.connect() as connection:
        (claim,) = claims.of(connection, [made.uid])[made.uid]
        assert (claim.node, reservations.everything(connection)) == ("laptop", [])
        assert (claim.evict_at, claim.evict_reason) == (None, "")
    watch.stop()
