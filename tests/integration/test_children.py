"""Resources that a resource has made: made once, only its own touched, and with no more rights than its maker had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from modelworks.control import children
from modelworks.control.apply import apply
from modelworks.control.kinds import KINDS
from modelworks.db import events, ledger, resources
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.kernel.decision import BOUND, OWNER, CancelChild, CreateChild, RemoveChild
from modelworks.kernel.errors import Conflict, Forbidden
from modelworks.kernel.principal import Principal
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.sweeps import queries
from modelworks.settings import Settings

SWEEP = {
    "kind": "Sweep",
    "metadata": {"name": "s"},
    "spec": {"job": {"command": "true"}, "parameters": {"x": [1, 2]}, "objective": {"metric": "loss"}},
}
JOB = Ref("default", "TrainingJob", "s-0")
MAKE = CreateChild("TrainingJob", "s-0", {"command": "true"}, {"modelworks/trial": "0"})


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    migrate(database_url)
    one = connect(database_url)
    yield one
    one.dispose()


@pytest.fixture
def sweep(engine: Engine) -> Resource:
    return apply(engine, [SWEEP], Settings(), KINDS)[0].resource


def found(engine: Engine) -> Resource | None:
    with engine.connect() as connection:
        return resources.get(connection, JOB)


def test_a_child_is_made_cancelled_and_deleted_once(engine: Engine, sweep: Resource) -> None:
    for _ in range(2):
        children.create(engine, Settings(), KINDS, sweep, MAKE)
    child = found(engine)
    assert child is not None
    assert (child.labels, child.generation) == ({"modelworks/trial": "0", OWNER: sweep.uid}, 1)
    for _ in range(2):
        children.cancel(engine, sweep, CancelChild("TrainingJob", "s-0", "enough"))
    with engine.connect() as connection:
        told = [event.message for event in events.latest(connection, child.uid, 10) if "Cancel" in event.reason]
    assert told == ["enough"]
    for _ in range(2):
        children.remove(engine, KINDS, sweep, RemoveChild("TrainingJob", "s-0"))
    child = found(engine)
    assert child is not None
    assert child.deleting is not None


def test_a_job_of_the_same_name_that_is_somebody_elses_is_left_alone(engine: Engine, sweep: Resource) -> None:
    labels = {"modelworks/sweep": "s", OWNER: "another"}
    other = {"kind": "TrainingJob", "metadata": {"name": "s-0", "labels": labels}, "spec": {"command": "sleep 9"}}
    apply(engine, [other], Settings(), KINDS)
    before = found(engine)
    with pytest.raises(Conflict, match="not of Sweep s"):
        children.create(engine, Settings(), KINDS, sweep, MAKE)
    children.cancel(engine, sweep, CancelChild("TrainingJob", "s-0", "enough"))
    children.remove(engine, KINDS, sweep, RemoveChild("TrainingJob", "s-0"))
    assert found(engine) == before
    with engine.connect() as connection:
        assert queries.taken(connection, sweep, ["s-0", "s-1"]) == {"s-0"}


def test_a_sweeps_own_jobs_do_not_take_its_names(engine: Engine, sweep: Resource) -> None:
    children.create(engine, Settings(), KINDS, sweep, MAKE)
    with engine.connect() as connection:
        assert queries.taken(connection, sweep, ["s-0", "s-1"]) == frozenset()


def test_only_its_own_jobs_cost_a_sweep(engine: Engine, sweep: Resource) -> None:
    children.create(engine, Settings(), KINDS, sweep, MAKE)
    other = {"kind": "TrainingJob", "metadata": {"name": "s-1"}, "spec": {"command": "sleep 9"}}
    apply(engine, [other], Settings(), KINDS)
    with engine.begin() as connection:
        for name in ("s-0", "s-1"):
            job = resources.get(connection, replace(JOB, name=name))
            assert job is not None
            ledger.begin(connection, job.ref, job.uid, key=f"{job.uid}/a1/0", item="local.small", price_per_hour=3600.0)
    with engine.begin() as connection:
        assert set(queries.costs(connection, sweep, ["s-0", "s-1"])) == {"s-0"}
        for name in ("s-0", "s-1"):
            job = resources.get(connection, replace(JOB, name=name))
            assert job is not None
            ledger.end_all(connection, job.uid)
            resources.remove(connection, job.uid)
        assert set(queries.costs(connection, sweep, ["s-0", "s-1"])) == {"s-0"}  # what is deleted, too


def test_a_child_reaches_no_more_than_the_key_that_applied_its_maker(engine: Engine) -> None:
    key = Principal("vision", "default")
    made = apply(engine, [SWEEP], Settings(), KINDS, principal=key)[0].resource
    assert made.resolved[BOUND] is True
    far = replace(MAKE, spec={"command": "true", "inputs": {"data": "s3://mw-other/"}})
    with pytest.raises(Forbidden):
        children.create(engine, Settings(), KINDS, made, far)
    children.create(engine, Settings(), KINDS, replace(made, resolved={BOUND: False}), far)
