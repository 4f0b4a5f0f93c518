"""Asynchronous services on the whole platform: nothing that was accepted is lost, and nothing is answered twice."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import leftovers, submissions
from tests.cli_platform import Mw, fresh

from modelworks.kernel.errors import Conflict, ModelworksError
from modelworks.sdk.session import Session
from modelworks.sdk.tasks import AsyncPredictor

pytestmark = [pytest.mark.timeout(300)]
VICTIMS = (
    "courier", "replica", "postgres", "gateway", "supervisor", "controller", "agent", "weed", "courier", "replica",
    "postgres",
)  # fmt: skip


@pytest.fixture(scope="module")
def mw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mw]:
    with fresh() as one:
        submissions.deploy(one, tmp_path_factory.mktemp("later"))
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []


def test_nothing_accepted_is_lost_while_everything_is_killed(
    mw: Mw, record_property: Callable[[str, object], None]
) -> None:
    rest = random.Random(7)
    uid = json.loads(mw.ok("service", "get", "later", "--json"))["metadata"]["uid"]
    with submissions.steady(mw, 60.0) as submitted:
        submitted.more(30)
        for name in VICTIMS:
            submissions.kill(mw, uid, name, rest)
            submitted.more(60)
    submissions.check(submitted)
    record_property("accepted", len(submitted.accepted))
    record_property("refused", str(submitted.refused))


def test_the_queue_can_be_seen(mw: Mw) -> None:
    document = json.loads(mw.ok("service", "tasks", "later", "--json"))
    assert document["counts"]["pending"] == document["counts"]["failed"] == 0
    assert document["counts"]["succeeded"] > 100
    assert {item["state"] for item in document["items"]} == {"done"}
    shown = mw.ok("service", "tasks", "later", "--state", "done", "--limit", "3")
    assert shown.startswith("later: 0 pending; 0 running; done: ")
    assert len([line for line in shown.splitlines() if " done " in line]) == 3
    assert mw("service", "tasks", "later", "--state", "lost").returncode == 2
    assert mw("service", "tasks", "nobody").returncode == 3


def test_a_task_is_submitted_and_awaited_in_python(mw: Mw) -> None:
    document = json.loads(mw.home.client.read_text())
    predictor = AsyncPredictor("later", session=Session(endpoint=document["url"], api_key=document["api_key"]))
    task = predictor.predict({"number": 5}, idempotency_key="five")
    assert task.wait(timeout=30)["number"] == 5
    assert task.state()["state"] == "done"
    assert predictor.predict({"number": 5}, idempotency_key="five") == task
    assert [one["number"] for one in predictor.map([{"number": n} for n in range(20)])] == list(range(20))
    with pytest.raises(Conflict):
        task.cancel()
    with pytest.raises(ModelworksError, match="number"):
        predictor.predict({}).wait(timeout=60)


HANGS = """
import threading
class Hangs:
    def process(self, data):
        if data.get("hang"):
            threading.Event().wait()
        return {"number": data["number"]}
"""
HANGING = (
    "kind: Service\nmetadata: {name: hangs}\nspec: {processor: python, entry: 'hangs.py:Hangs', code: .,"
    " instance_type: local.tiny, concurrency: 1, hang_timeout: 2s, tasks: {attempts: 2}}\n"
)


def test_a_replica_that_hangs_is_replaced_and_its_tasks_are_tried_elsewhere(mw: Mw, tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    (tmp_path / "service.yaml").write_text(HANGING)
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=tmp_path)
    document = json.loads(mw.home.client.read_text())
    predictor = AsyncPredictor("hangs", session=Session(endpoint=document["url"], api_key=document["api_key"]))
    first = json.loads(mw.ok("service", "get", "hangs", "--json"))["status"]["replicas"][0]["key"]
    hangs, waits = predictor.predict({"hang": True}), predictor.predict({"number": 6})
    assert waits.wait(timeout=60)["number"] == 6
    with pytest.raises(ModelworksError, match="each of 2 attempts"):
        hangs.wait(timeout=120)
    replicas = json.loads(mw.ok("service", "get", "hangs", "--json"))["status"]["replicas"]
    assert first not in [one["key"] for one in replicas]
    mw.ok("service", "delete", "hangs")


def test_a_service_that_is_deleted_leaves_no_tasks(mw: Mw) -> None:
    mw.ok("service", "delete", "later")
    assert mw("service", "tasks", "later").returncode == 3
