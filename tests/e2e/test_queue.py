"""The queue on the real platform: quotas hold and no job is lost while the controller is killed; drains; reasons."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
import yaml
from tests import queue_load
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of


def submit(mw: Mw, name: str, command: str, **spec: Any) -> None:
    document = {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"command": command, **spec}}
    mw.ok("job", "submit", "-f", "-", stdin=yaml.safe_dump(document))


def message(client: Client, name: str) -> str:
    return str(client.get("TrainingJob", name)["status"].get("message", ""))


@pytest.mark.timeout(300)
def test_quotas_hold_and_no_job_is_lost_while_the_controller_is_killed(mw: Mw, client: Client) -> None:
    queue_load.ordeal(mw, client, count=24, kills=2, seed=3)


def test_a_job_waits_for_its_quota_says_so_and_goes_on_when_it_is_lifted(mw: Mw, client: Client) -> None:
    mw.ok("quota", "create", "none", "--instances", "local.tiny=1")
    try:
        submit(mw, "first", "sleep 600", instance_type="local.tiny", grace_period="1s")
        poll(lambda: phase_of(client.get("TrainingJob", "first")) == "Running", 60)
        submit(mw, "second", "true", instance_type="local.tiny")
        poll(lambda: "waits for the quota none of workspace default" in message(client, "second"), 30)
        # By the platform's own clock, whenever this test looks: the reason is what was written last.
        told = client.get("TrainingJob", "second")["metadata"]
        submitted, reason_at = (datetime.fromisoformat(told[name]) for name in ("created_at", "updated_at"))
        assert (reason_at - submitted).total_seconds() <= 2
        shown = yaml.safe_load(mw.ok("job", "get", "second", "-o", "yaml"))
        assert shown["queue"]["text"] == "1st of 1 in the queue"
        summary = mw.ok("job", "get", "second").splitlines()
        assert summary[:2] == ["TrainingJob/second", "phase:        Queued"]
        assert "queue:        1st of 1 in the queue" in summary
        assert "second" in mw.ok("job", "queue")
        assert "1 × local.tiny of 1 × local.tiny" in mw.ok("quota", "list")
    finally:
        mw.ok("quota", "delete", "none")
    mw.ok("job", "wait", "second")
    mw.ok("job", "cancel", "first")


def test_a_higher_priority_takes_the_room_and_the_lower_one_goes_on_after_it(mw: Mw, client: Client) -> None:
    mw.ok("quota", "create", "one", "--instances", "local.tiny=1")
    try:
        command = "test $MW_ATTEMPT != 1 || { trap 'exit 0' TERM; while :; do sleep 0.1; done; }"
        submit(mw, "low", command, instance_type="local.tiny")
        poll(lambda: phase_of(client.get("TrainingJob", "low")) == "Running", 60)
        submit(mw, "high", "true", instance_type="local.tiny", priority=5)
        mw.ok("job", "wait", "high")
        mw.ok("job", "wait", "low")
    finally:
        mw.ok("quota", "delete", "one")
    attempts = client.get("TrainingJob", "low")["status"]["attempts"]
    assert [attempt["reason"] for attempt in attempts] == ["Preempted", "Completed"]
    told = [event for event in client.events("TrainingJob", "low")[0] if event["reason"] == "Preempting"]
    assert [event["message"] for event in told] == ["preempted for TrainingJob high of priority 5: 3m to save and end"]


def test_a_drained_node_is_left_with_a_checkpoint_and_taken_up_again(mw: Mw, client: Client) -> None:
    command = "test $MW_ATTEMPT != 1 || { trap 'exit 0' TERM; while :; do sleep 0.1; done; }"
    submit(mw, "moving", command, instance_type="local.tiny")
    poll(lambda: phase_of(client.get("TrainingJob", "moving")) == "Running", 60)
    (node,) = [item["name"] for item in client.nodes()]
    assert "is drained" in mw.ok("node", "drain", node, "--notice", "20s", "--reason", "a new disk")
    poll(lambda: message(client, "moving") == f"node {node} is drained", 60)
    assert "Drained" in mw.ok("node", "list")
    assert client.node(node)["drain_reason"] == "a new disk"
    mw.ok("node", "uncordon", node)
    mw.ok("job", "wait", "moving")
    attempts = client.get("TrainingJob", "moving")["status"]["attempts"]
    assert [attempt["reason"] for attempt in attempts] == ["Preempted", "Completed"]
    assert json.loads(mw.ok("node", "cordon", node, "--json"))["cordoned"] is True
    assert "Cordoned" in mw.ok("node", "list")
    assert yaml.safe_load(mw.ok("node", "get", node))["name"] == node
    assert json.loads(mw.ok("node", "uncordon", node, "--json"))["drain_by"] is None
