"""What `mw job get` and `mw service get` print, against a stand-in for the platform."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.stub_api import StubApi

from modelworks.cli.app import run
from modelworks.sdk import context

JOB: dict[str, Any] = {
    "phase": "Failed",
    "message": "replica 1: exit code 5: ValueError: no",
    "reason": "Failed",
    "conditions": [{"type": "Complete", "status": "False", "message": "replica 1: exit code 5: ValueError: no"}],
    "attempt": 2,
    "attempts": [
        {"n": 1, "reason": "Preempted", "message": "preempted on request"},
        {"n": 2, "reason": "Failed", "message": "replica 1: exit code 5: ValueError: no"},
    ],
    "replicas": [
        {"ordinal": 0, "attempt": 2, "node": "a", "phase": "Exited", "reason": "PeerFailed", "exit_code": 143},
        {"ordinal": 1, "attempt": 2, "node": "b", "phase": "Exited", "reason": "Failed", "exit_code": 5},
    ],
    "started_at": "2026-01-01T10:00:00+00:00",
    "finished_at": "2026-01-01T10:02:00+00:00",
    "progress": {"step": 40, "steps": 100, "rates": {"samples": 12.5}},
    "cost": {"amount": 0.5, "per_hour": 0.0, "at": "2026-01-01T10:02:00+00:00"},
    "last_lines": [f"line {number}" for number in range(50)],
}
SERVICE: dict[str, Any] = {
    "phase": "Degraded",
    "message": "1 of 2 replicas ready; replica 1: exit code 3",
    "conditions": [
        {"type": "Ready", "status": "True", "message": "1 of 2 replicas ready; replica 1: exit code 3"},
        {"type": "AlertLatency", "status": "True", "message": "p99 of 2.0 s"},
    ],
    "revision": "0123456789ab",
    "ready": 1,
    "replicas": [
        {"ordinal": 0, "incarnation": 0, "revision": "0123456789ab", "node": "a", "phase": "Running", "ready": True}
    ],
    "slots": [{"ordinal": 0, "incarnation": 0}, {"ordinal": 1, "incarnation": 3, "cause": "exit code 3"}],
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> StubApi:
    stub = StubApi()
    monkeypatch.setattr(context, "connect", lambda *_, workspace="default": stub.client(workspace))
    stub.add("TrainingJob", "fit", spec={"retries": 2, "budget": 3}, **JOB)
    stub.add("Service", "rent", spec={"model": "rents:1"}, **SERVICE)
    return stub


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def test_a_job_says_once_how_it_went_and_what_it_said_last(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "job", "get", "fit").splitlines()
    assert lines[:4] == [
        "TrainingJob/fit",
        "phase:        Failed",
        "message:      replica 1: exit code 5: ValueError: no",
        "reason:       Failed",
    ]
    assert sum("ValueError: no" in line for line in lines) == 1
    for line in (
        "progress:     step 40 of 100, 12.5 samples/s",
        "attempt:      2, of a job with 2 retries",
        "replicas:     0 Exited (PeerFailed) on node a, exit code 143",
        "              1 Exited (Failed) on node b, exit code 5",
        "cost:         0.5 of 3.00",
        "earlier:      attempt 1: Preempted, preempted on request",
        "the last lines of its log (20 of 50):",
    ):
        assert line in lines
    assert any(line.startswith("time:         took 2m, ended ") for line in lines)
    assert lines[-1] == "  | line 49"


def test_a_service_shows_phase_endpoint_and_replicas(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "service", "get", "rent").splitlines() == [
        "Service/rent",
        "phase:        Degraded",
        "message:      1 of 2 replicas ready; replica 1: exit code 3",
        "endpoint:     http://mw.test/api/predict/rent",
        "model:        rents:1",
        "revision:     0123456789ab",
        "replicas:     1 ready of 2",
        "              0 Running, ready on node a",
        "restarts:     replica 1 ended before: exit code 3",
        "alert:        AlertLatency: p99 of 2.0 s",
    ]


@pytest.mark.parametrize(("noun", "name"), [("job", "fit"), ("service", "rent")])
def test_the_document_is_there_on_request(
    api: StubApi, capsys: pytest.CaptureFixture[str], noun: str, name: str
) -> None:
    whole = json.loads(shown(capsys, noun, "get", name, "--json"))
    assert json.loads(shown(capsys, noun, "get", name, "-o", "json")) == whole
    assert yaml.safe_load(shown(capsys, noun, "get", name, "-o", "yaml")) == whole


def test_what_has_no_status_yet_is_pending(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.store["TrainingJob", "fit"]["status"] = {}
    assert shown(capsys, "job", "get", "fit") == "TrainingJob/fit\nphase:        Pending\n"
