"""Room that goes from one attempt to the next on real tables: free for nobody in between, and paid for throughout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from modelworks.control.act import Actor
from modelworks.control.fleet import Fleet
from modelworks.control.scheduler import admit
from modelworks.db import claims, nodes, resources
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.db.secrets import Cipher
from modelworks.kernel.decision import Action, Claim, Decision, Reserve, Transfer
from modelworks.kernel.resource import Ref
from modelworks.kernel.run import NodeObservation, Resources

ONE = Resources.parse({"cpu": 1, "memory": "1Gi"})


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    migrate(database_url)
    engine = connect(database_url)
    with engine.begin() as connection:
        nodes.put(connection, NodeObservation(name="a", capacity=Resources.parse({"cpu": 2, "memory": "4Gi"})))
    yield engine
    engine.dispose()


def refuse_credentials() -> Any:
    raise AssertionError("no test here needs the object store")


class Job:
    """A resource, and decisions about it that are carried out."""

    def __init__(self, engine: Engine, name: str, volumes: Path) -> None:
        with engine.begin() as connection:
            made = resources.insert_new(connection, Ref("default", "Sample", name), {}, {}, {})
        assert made is not None
        self.engine, self.uid = engine, made.uid
        self._actor = Actor(engine, Fleet(), Cipher(b"k" * 32), refuse_credentials, volumes)

    def claim(self, attempt: int, ordinal: int) -> Claim:
        return Claim(f"{self.uid}/a{attempt}/{ordinal}/0", f"{self.uid}/a{attempt}", ONE, "local.small", 0.5)

    def do(self, *actions: Action) -> None:
        with self.engine.begin() as connection:
            (lease,) = resources.lease_these(connection, "test", [self.uid], 60.0)
        self._actor.carry_out(lease, Decision({}, actions, 1000.0))

    def held(self) -> dict[str, str | None]:
        with self.engine.connect() as connection:
            return {claim.key: claim.node for claim in claims.of(connection, [self.uid]).get(self.uid, [])}


def open_rows(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT key FROM ledger WHERE ended_at IS NULL ORDER BY key")))


def test_a_claim_becomes_that_of_the_next_attempt(engine: Engine, tmp_path: Path) -> None:
    job, other = Job(engine, "job", tmp_path), Job(engine, "other", tmp_path)
    first, second = job.claim(1, 0), job.claim(1, 1)
    job.do(Reserve((first, second)))
    admit(engine)
    other.do(Reserve((other.claim(1, 0),)))
    admit(engine)
    with engine.begin() as connection:
        claims.evict(connection, [first.key], 30.0, "the node is drained")
    job.do(Transfer(second.key, job.claim(2, 0), 1_700_000_000.0))
    admit(engine)
    assert job.held() == {first.key: "a", job.claim(2, 0).key: "a"}
    assert other.held() == {other.claim(1, 0).key: None}
    assert open_rows(engine) == sorted([first.key, job.claim(2, 0).key])
    with engine.connect() as connection:
        handed = {claim.key: claim for claim in claims.of(connection, [job.uid])[job.uid]}
    assert (handed[job.claim(2, 0).key].gang, handed[job.claim(2, 0).key].evict_at) == (f"{job.uid}/a2", None)


def test_what_was_never_placed_is_not_handed_on(engine: Engine, tmp_path: Path) -> None:
    job = Job(engine, "job", tmp_path)
    job.do(Reserve((job.claim(1, 0),)))
    job.do(Transfer(job.claim(1, 0).key, job.claim(2, 0)), Transfer("gone/a1/0/0", job.claim(2, 1)))
    assert job.held() == {job.claim(1, 0).key: None}
    assert open_rows(engine) == []
