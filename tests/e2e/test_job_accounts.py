"""Progress, cost and budgets of jobs, their metrics and their merged logs, on the real platform."""

from __future__ import annotations

import json
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest
import yaml
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.runtime.agent_client import AgentClient

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("accounts")]
WORKLOAD_FAILED = 6
_PATIENCE = 120.0


def submit(mw: Mw, name: str, program: str, **spec: Any) -> None:
    command = ["python", "-c", textwrap.dedent(program)]
    spec = {"resources": {"cpu": "100m", "memory": "512Mi"}, "command": command, **spec}
    document = {"kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}
    mw.ok("job", "submit", "-f", "-", stdin=yaml.safe_dump(document))


def status(mw: Mw, name: str) -> dict[str, Any]:
    return dict(json.loads(mw.ok("job", "get", name, "--json"))["status"])


def test_many_small_files_are_told_of_when_a_job_of_several_replicas_is_submitted(mw: Mw) -> None:
    mw.ok("bucket", "create", "small")
    client, folder = ObjectClient(Credentials.load(mw.home.secrets / "s3.json")), ObjectUri.parse("s3://small/")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: client.put(folder / f"{number}.txt", b"x"), range(500)))
    spec = {"command": "true", "resources": {"cpu": "100m", "memory": "64Mi"}, "inputs": {"data": "s3://small/"}}
    spec |= {"mounts": {"/mnt/more": "s3://small/"}}
    for command, replicas, notes in ((["job", "submit"], 2, 1), (["apply"], 2, 1), (["apply"], 1, 0)):
        name = f"{command[-1]}-{replicas}"
        document = {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {**spec, "replicas": replicas}}
        done = mw(*command, "-f", "-", stdin=yaml.safe_dump(document))
        assert done.returncode == 0, done.stderr
        for what in ("the channel data", "what is at /mnt/more"):
            assert done.stderr.count(f"{what} has 500 files of 1B on average") == notes, done.stderr
        mw.ok("job", "cancel", name)


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


TWO_RANKS = """
import os, sys, time
rank = os.environ["RANK"]
for n in range(3):
    time.sleep(0.7)
    print(f"rank {rank} step {n} loss={1 / (n + 1):.3f}", flush=True)
for n in range(200):
    sys.stdout.write(f"\\r{n} %")
print(flush=True)
print("Found A WORD" if rank == "1" else "nothing", flush=True)
"""


def test_merged_logs_are_searched_and_progress_bars_are_lines(mw: Mw) -> None:
    submit(mw, "gang", TWO_RANKS, replicas=2, metrics=[{"name": "loss", "regex": r"loss=([0-9.]+)"}])
    merged = mw.ok("job", "log", "gang", "--all", "--follow").splitlines()
    assert sorted(merged) == sorted(mw.ok("job", "log", "gang", "--all").splitlines())
    assert len(merged) < 40
    for rank in (0, 1):
        own = [line for line in merged if line.startswith(f"[{rank}] rank")]
        assert own == [f"[{rank}] rank {rank} step {n} loss={1 / (n + 1):.3f}" for n in range(3)]
        assert f"[{rank}] 199 %" in merged
    assert mw.ok("job", "log", "gang", "--all", "--grep", "found a word", "-i") == "[1] Found A WORD\n"
    assert mw.ok("job", "log", "gang", "--rank", "1", "--grep", "FOUND") == ""
    assert mw.ok("job", "log", "gang", "--rank", "1", "--since", "10m").endswith("199 %\nFound A WORD\n")
    assert mw.ok("job", "log", "gang", "--rank", "1", "--since", "0s") == ""
    assert "\r100 %\r" in mw.ok("job", "log", "gang", "--raw")
    assert "\r" not in mw.ok("job", "log", "gang")
    assert "--since" in mw("job", "log", "gang", "--raw", "--since", "1m").stderr


def test_what_jobs_reported_is_shown_drawn_and_compared(mw: Mw) -> None:
    program = """
    import os
    from modelworks import train
    for n in range(1, 1201):
        train.step(n, loss=float(os.environ["RATE"]) / n)
    """
    for name, rate in (("slow", 0.1), ("fast", 0.5)):
        submit(mw, name, program, env={"RATE": str(rate)}, hyperparameters={"lr": rate, "batch": 32})
        mw.ok("job", "wait", name)
    document = json.loads(mw.ok("job", "metrics", "fast", "--json"))
    (loss,) = document["reports"]
    assert (loss["name"], loss["count"], loss["last"], loss["greatest"]) == ("loss", 1200, 0.5 / 1200, 0.5)
    assert 100 < len(loss["points"]) <= 500
    assert "█" in mw.ok("job", "metrics", "fast")
    compared = json.loads(mw.ok("job", "compare", "slow", "fast", "--json"))["items"]
    assert [one["values"]["loss"] for one in compared] == [0.1 / 1200, 0.5 / 1200]
    table = mw.ok("job", "compare", "slow", "fast")
    assert "lr" in table
    assert "batch" not in table
    picture = mw.home.root / "fast.png"
    mw.ok("job", "metrics", "fast", "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_logs_and_metrics_outlive_the_node(mw: Mw) -> None:
    """What an agent forgot is read from the object store."""
    submit(mw, "kept", TWO_RANKS, replicas=2, metrics=[{"name": "loss", "regex": r"loss=([0-9.]+)"}])
    mw.ok("job", "wait", "kept")
    here = mw.ok("job", "log", "kept", "--all"), mw.ok("job", "metrics", "kept", "--json")
    uid = json.loads(mw.ok("job", "get", "kept", "--json"))["metadata"]["uid"]
    with closing(AgentClient(mw.home.agent_socket)) as agent:
        for run in agent.observe(f"{uid}/"):
            agent.forget(run.key)
    assert (mw.ok("job", "log", "kept", "--all"), mw.ok("job", "metrics", "kept", "--json")) == here
    assert json.loads(here[1])["reports"][0]["count"] == 3


def test_a_job_is_estimated_by_its_prices_and_by_those_before_it(mw: Mw) -> None:
    submit(mw, "fill", FILL, output=FILLED)
    mw.ok("job", "wait", "fill")
    spec = {"instance_type": "ecs.g6.large", "command": "true", "replicas": 2, "time_limit": "2h", "spot": {}}
    document = {"kind": "TrainingJob", "metadata": {"name": "fill"}, "spec": {**spec, "inputs": {"data": FILLED}}}
    answer = json.loads(mw.ok("job", "validate", "-f", "-", "--json", stdin=yaml.safe_dump(document)))
    found = answer["estimate"]
    assert found["saving"] == pytest.approx(0.7)
    assert found["at_most"] == pytest.approx(2 * found["price_per_hour"])
    assert found["history"]["jobs"] == 1
    assert any(note.startswith("the channel data has 60") for note in answer["notes"])
    told = mw.ok("job", "estimate", "-f", "-", stdin=yaml.safe_dump(document))
    assert "saved by spot" in told
    assert "70%" in told


FILLED = "s3://mw-default/jobs/fill/crumbs/"
FILL = """
import os, pathlib
folder = pathlib.Path(os.environ["MW_OUTPUT_DIR"])
for n in range(600):
    (folder / str(n)).write_text("crumb")
"""
