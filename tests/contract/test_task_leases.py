"""The statements about tasks against a model of them: whoever does what in whichever order, one result is kept, and a
task that was accepted is done, claimable, or leased by somebody who may still speak."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from modelworks.db import tasks as sql
from modelworks.db.migrate import migrate
from modelworks.gateway.source import libpq_url

UID = "0123456789abcdef"


@dataclass
class Task:
    """What the table should say. ``due``: it may be claimed now."""

    due: bool = True
    lease: str | None = None
    attempts: int = 0
    result: bytes | None = None


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection]:
    migrate(database_url)
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection


def test_one_result_is_kept(database: psycopg.Connection) -> None:
    class Leases(RuleBasedStateMachine):
        """Couriers claim, renew, finish and give back, some of them long after their lease ended."""

        @initialize()
        def empty(self) -> None:
            database.execute("TRUNCATE tasks")
            self.tasks: dict[str, Task] = {}
            self.claimed: list[tuple[str, str]] = []  # id and lease, of all times
            self.number = itertools.count(1)

        @rule()
        def submit(self) -> None:
            id = f"t{len(self.tasks)}"
            for _ in range(2):  # repeated under an idempotency key
                database.execute(sql.INSERT, (id, UID, "{}", b"body", None))
            self.tasks[id] = Task()

        @rule(limit=st.integers(1, 3))
        def claim(self, limit: int) -> None:
            lease = f"1-{next(self.number)}"
            rows = database.execute(
                sql.CLAIM, {"uid": UID, "limit": limit, "lease": lease, "seconds": 3600.0}
            ).fetchall()
            due = [id for id, task in self.tasks.items() if task.due and task.result is None]
            assert len(rows) == min(limit, len(due))
            for id, attempts, _, _ in rows:
                task = self.tasks[id]
                assert task.due
                task.due, task.lease, task.attempts = False, lease, task.attempts + 1
                assert attempts == task.attempts
                self.claimed.append((id, lease))

        @rule(pick=st.integers(0, 30))
        def lease_ends(self, pick: int) -> None:
            """Nobody renewed it: its time has come."""
            held = [id for id, task in self.tasks.items() if task.lease is not None and task.result is None]
            if held:
                id = held[pick % len(held)]
                database.execute("UPDATE tasks SET due_at = now(), leased_until = now() WHERE id = %s", (id,))
                self.tasks[id].due = True

        @rule(pick=st.integers(0, 30))
        def renew(self, pick: int) -> None:
            if self.claimed:
                id, lease = self.claimed[pick % len(self.claimed)]
                done = database.execute(sql.RENEW, ([id], [lease], [3600.0])).fetchall()
                task = self.tasks[id]
                mine = task.lease == lease and task.result is None
                assert done == ([(id,)] if mine else [])
                if mine:
                    task.due = False

        @rule(pick=st.integers(0, 30))
        def finish(self, pick: int) -> None:
            if self.claimed:
                id, lease = self.claimed[pick % len(self.claimed)]
                terms = {"id": id, "lease": lease, "status": 200, "answer": "[]", "ttl": 60.0}
                done = database.execute(sql.FINISH, {**terms, "result": lease.encode()}).rowcount
                task = self.tasks[id]
                mine = task.lease == lease and task.result is None
                assert done == int(mine)
                if mine:
                    task.result, task.lease = lease.encode(), None

        @rule(pick=st.integers(0, 30), refund=st.integers(0, 1))
        def release(self, pick: int, refund: int) -> None:
            if self.claimed:
                id, lease = self.claimed[pick % len(self.claimed)]
                terms = {"id": id, "lease": lease, "refund": refund, "delay": 0.0}
                done = database.execute(sql.RELEASE, terms).rowcount
                task = self.tasks[id]
                mine = task.lease == lease and task.result is None
                assert done == int(mine)
                if mine:
                    task.lease, task.due, task.attempts = None, True, task.attempts - refund

        @rule(pick=st.integers(0, 30))
        def cancel(self, pick: int) -> None:
            if self.tasks:
                id = list(self.tasks)[pick % len(self.tasks)]
                terms = {"id": id, "uid": UID, "status": 410, "answer": "[]", "result": b"cancelled", "ttl": 60.0}
                done = database.execute(sql.CANCEL, terms).fetchall()
                task = self.tasks[id]
                assert bool(done) == (task.lease is None and task.result is None)
                if done:
                    task.result = b"cancelled"

        @invariant()
        def table_is_the_model(self) -> None:
            rows = database.execute(
                "SELECT id, due_at <= now(), lease, attempts, result, body FROM tasks ORDER BY seq"
            ).fetchall()
            assert [row[0] for row in rows] == list(self.tasks)
            for id, due, lease, attempts, result, body in rows:
                task = self.tasks[id]
                assert (lease, attempts, result) == (task.lease, task.attempts, task.result)
                assert body == (b"body" if result is None else b""), "only what is not done needs its request"
                if result is None:
                    assert due == task.due
                    assert due or lease is not None, "a task that nobody can ever take up is lost"

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Leases,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
