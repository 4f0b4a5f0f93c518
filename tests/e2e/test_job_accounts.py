"""Progress, cost and budgets of jobs, their metrics and their merged logs, on the real platform."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import yaml
from tests import leftovers
from tests.agents import poll
from tests.cli_platform import Mw, fresh

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("accounts")]
WORKLOAD_FAILED = 6
_PATIENCE = 120.0


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []


def submit(mw: Mw, name: str, program: str, **spec: Any) -> None:
    command = ["python", "-c", textwrap.dedent(program)]
    spec = {"resources": {"cpu": "100m", "memory": "512Mi"}, "command": command, **spec}
    document = {"kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}
    mw.ok("job", "submit", "-f", "-", stdin=yaml.safe_dump(document))


def status(mw: Mw, name: str) -> dict[str, Any]:
    return dict(json.loads(mw.ok("job", "get", name, "--json"))["status"])


def test_progress_and_cost_are_in_the_status_while_a_job_runs(mw: Mw) -> None:
    program = """
    import time
    from modelworks import train
    from modelworks.train.progress import data_wait
    for n in range(1, 10_000):
        with data_wait():
            time.sleep(0.03)
        train.step(n, steps=10_000, samples=8, loss=1 / n)
    """
    submit(mw, "digits", program)
    poll(lambda: "remaining" in status(mw, "digits").get("progress", {}), timeout=_PATIENCE)
    now = status(mw, "digits")
    assert now["progress"]["steps"] == 10_000
    assert now["progress"]["metrics"]["loss"] > 0
    assert now["progress"]["remaining"]["seconds"] > 60
    assert now["progress"]["remaining"]["amount"] > 0
    assert now["warnings"][0].startswith("input-bound: ")
    assert now["cost"]["amount"] > 0
    mw.ok("job", "cancel", "digits")
    mw("job", "wait", "digits")
    ended = status(mw, "digits")
    assert "warnings" not in ended
    assert ended["cost"]["per_hour"] == 0
    bill = json.loads(mw.ok("cost", "--json"))
    (line,) = [item for item in bill["items"] if item["name"] == "digits"]
    assert ended["cost"]["amount"] == pytest.approx(line["amount"], rel=0.01)


def test_a_job_stops_checkpointed_when_its_budget_ends(mw: Mw) -> None:
    program = """
    import os, time
    from modelworks import train
    while not train.should_stop():
        time.sleep(0.02)
    with open(os.environ["MW_CHECKPOINT_DIR"] + "/kept", "w") as file:
        file.write("kept")
    """
    price = float(
        json.loads(mw.ok("job", "validate", "-f", "-", "--json", stdin=manifest()))["estimate"]["price_per_hour"]
    )
    seconds = 8.0
    submit(mw, "dear", program, budget=price * seconds / 3600, retries=5)
    assert mw("job", "wait", "dear").returncode == WORKLOAD_FAILED
    ended = status(mw, "dear")
    assert (ended["phase"], ended["reason"]) == ("Failed", "Budget")
    assert "its budget of" in ended["message"]
    assert len(ended["attempts"]) == 1
    took = datetime.fromisoformat(ended["attempts"][0]["ended"]) - datetime.fromisoformat(
        ended["attempts"][0]["started"]
    )
    assert took.total_seconds() < seconds + 5
    assert ended["cost"]["amount"] >= price * seconds / 3600 / 2


def manifest() -> str:
    spec = {"resources": {"cpu": "100m", "memory": "512Mi"}, "command": "true"}
    return yaml.safe_dump({"kind": "TrainingJob", "metadata": {"name": "one"}, "spec": spec})
