"""Jobs that do nothing, or could not begin, as a user meets them through `mw` on the real platform."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.agents import poll
from tests.cli_platform import Mw

# Rank 0 reduces, rank 1 waits for a message that nobody sends: the classic of a collective that is not called by all.
DEADLOCK = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
tensor = torch.ones(1)
dist.all_reduce(tensor)
print("together", int(tensor), flush=True)
def rank_zero_reduces():
    dist.all_reduce(tensor)
def rank_one_receives():
    dist.recv(tensor, src=0)
rank_zero_reduces() if dist.get_rank() == 0 else rank_one_receives()
"""

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("stalls")]


def submit(mw: Mw, name: str, command: object, **spec: Any) -> None:
    size = {"resources": {"cpu": "500m", "memory": "1Gi"}}
    document = {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"command": command, **size, **spec}}
    mw.ok("job", "submit", "-f", "-", stdin=yaml.safe_dump(document))


def status(mw: Mw, name: str) -> dict[str, Any]:
    return {"phase": "", **json.loads(mw.ok("job", "get", name, "--json"))["status"]}


def test_a_deadlocked_all_reduce_is_stalled_with_both_stacks_in_log_and_api(mw: Mw) -> None:
    submit(mw, "stuck", ["python", "-c", DEADLOCK], replicas=2, grace_period="1s", watchdog={"after": "3s"})
    poll(lambda: status(mw, "stuck")["phase"] in ("Stalled", "Failed"), 120)
    assert "(all 2 replicas)" in status(mw, "stuck")["message"]
    assert "Stalled" in mw.ok("job", "list")
    frames = ("rank_zero_reduces", "rank_one_receives")
    for replica, frame in enumerate(frames):
        log = mw.ok("job", "log", "stuck", "--replica", str(replica))
        assert "modelworks: what every process does, at " in log
        assert f"modelworks:     {frame} (<string>:" in log
    events = json.loads(mw.ok("events", "job", "stuck", "--json"))["items"]
    (told,) = [event for event in events if event["reason"] == "Stalled"]
    assert told["level"] == "warning"
    live = json.loads(mw.ok("job", "stacks", "stuck", "--json"))
    assert live["live"] is True
    assert [item["replica"] for item in live["items"]] == [0, 1]
    assert all(frame in item["stacks"] for frame, item in zip(frames, live["items"], strict=True))
    mw.ok("job", "cancel", "stuck")
    poll(lambda: status(mw, "stuck")["phase"] == "Cancelled")
    kept = json.loads(mw.ok("job", "stacks", "stuck", "--json"))
    assert kept["live"] is False
    assert all(frame in item["stacks"] for frame, item in zip(frames, kept["items"], strict=True))


def test_a_policy_may_end_what_is_stalled(mw: Mw) -> None:
    submit(mw, "idle", "echo the last words; exec sleep 600", retries=3, watchdog={"policy": "stop", "after": "2s"})
    poll(lambda: status(mw, "idle")["phase"] == "Failed", 120)
    seen = status(mw, "idle")
    assert (seen["reason"], len(seen["attempts"])) == ("Stalled", 1)
    assert "sleep 600" in mw.ok("job", "stacks", "idle")
    assert "modelworks: what every process does" in mw.ok("job", "log", "idle")
    assert seen["last_lines"] == ["the last words"]


def test_stacks_of_a_job_that_works(mw: Mw) -> None:
    program = "def works_hard():\n    while True: pass\nprint('begun', flush=True)\nworks_hard()\n"
    submit(mw, "busy", ["python", "-c", program])
    poll(lambda: "begun" in mw.ok("job", "log", "busy"))
    shown = mw.ok("job", "stacks", "busy")
    assert shown.startswith("replica 0 on node ")
    assert "works_hard (<string>:2)" in shown
    assert "MainThread (works" in shown
    assert mw("job", "stacks", "nobody").returncode == 3
    mw.ok("job", "delete", "busy")


def test_a_job_that_needs_more_disk_than_there_is_says_so(mw: Mw) -> None:
    submit(mw, "large", "echo never", preflight={"disk": "900Ti"}, retries=5)
    poll(lambda: status(mw, "large")["phase"] == "Failed")
    seen = status(mw, "large")
    assert [attempt["reason"] for attempt in seen["attempts"]] == ["PreflightFailed"] * 2
    assert "preflight.disk asks for 900Ti" in seen["message"]
    assert "never" not in mw.ok("job", "log", "large").splitlines()


def test_replicas_of_one_machine_find_each_other_before_they_begin(mw: Mw) -> None:
    submit(mw, "pair", "echo rank $RANK begins", replicas=2, preflight={"network": True, "timeout": "20s"})
    poll(lambda: status(mw, "pair")["phase"] in ("Succeeded", "Failed"))
    assert status(mw, "pair")["phase"] == "Succeeded"
    assert mw.ok("job", "log", "pair", "--replica", "1") == "rank 1 begins\n"
