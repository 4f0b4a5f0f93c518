"""Long runs: processes of the platform killed at random for minutes, and hundreds of workloads begun and ended."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import leftovers, traffic
from tests.agents import poll
from tests.cli_platform import Mw, fresh

from modelworks.kernel.errors import ModelworksError, NotFound
from modelworks.sdk import jobs
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of
from modelworks.supervisor.state import State

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
VICTIMS = ("controller", "agent", "gateway", "courier", "postgres", "weed", "supervisor")

WORKLOAD = """
import os, pathlib, sys, time
marks, name = pathlib.Path("/mnt/marks"), os.environ["MW_JOB"]
(marks / f"{name}.started.{time.time_ns()}").touch()
time.sleep(float(os.environ["SLEEP"]))
pathlib.Path("/mnt/output/result.txt").write_text(name)
sys.exit(int(os.environ["CODE"]))
"""
ECHO = "class Echo:\n    def process(self, data):\n        return data\n"


@pytest.fixture
def mw(tmp_path: Path) -> Iterator[Mw]:
    """A platform with a volume for marks and a service; nothing of it is left at the end."""
    (tmp_path / "echo.py").write_text(ECHO)
    documents: list[dict[str, Any]] = [
        {"kind": "Volume", "metadata": {"name": "marks"}, "spec": {"size": "1Gi", "shared": True}},
        {
            "kind": "Service",
            "metadata": {"name": "echo"},
            "spec": {"processor": "python", "entry": "echo.py:Echo", "code": ".", "instance_type": "local.tiny"},
        },
    ]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(documents))
    with fresh() as one:
        one.ok("apply", "-f", "all.yaml", cwd=tmp_path)
        one.ok("service", "start", "echo", "--wait")
        yield one
        one.ok("down", "--grace", "5")
        assert leftovers.of_platform(one.home) == []


@pytest.fixture
def client(mw: Mw) -> Iterator[Client]:
    document = json.loads(mw.home.client.read_text())
    one = Client(document["url"], document["api_key"], patience=60.0)
    yield one
    one.close()


def submit(client: Client, name: str, code: int, seconds: float) -> str:
    spec = {
        "command": ["python", "-c", WORKLOAD],
        "resources": {"cpu": "100m", "memory": "64Mi"},
        "env": {"CODE": code, "SLEEP": seconds},
        "volumes": [{"name": "marks", "mount_path": "/mnt/marks"}],
        "grace_period": "1s",
    }
    manifest = {"apiVersion": "modelworks/v1", "kind": jobs.KIND, "metadata": {"name": name}, "spec": spec}
    (result,) = client.apply([manifest])
    return str(result["resource"]["metadata"]["uid"])


def test_processes_killed_at_random(mw: Mw, client: Client, record_property: Any) -> None:
    """Every job ends with its own exit code and ran once; the service answers but for what was inside the gateway."""
    rest, end = random.Random(11), time.monotonic() + SECONDS
    (marks,) = mw.home.volumes.iterdir()
    codes: dict[str, int] = {}
    killed: list[str] = []
    with traffic.steady(client.service_endpoint("echo"), client.service_token("echo")) as calls:
        calls.wait_answers(20)
        while time.monotonic() < end:
            for _ in range(3):
                name = f"job-{len(codes)}"
                codes[name] = rest.choice((0, 0, 3, 7))
                submit(client, name, codes[name], rest.uniform(0, 5))
            victim = rest.choice(VICTIMS)
            _kill(mw, victim)
            killed.append(victim)
            time.sleep(rest.uniform(0, 3))
            if victim == "supervisor":
                mw.ok("up", "--detach")
            poll(lambda: mw("status").returncode == 0, 120)
        for name, code in codes.items():
            status = jobs.wait(client, name)["status"]
            assert [attempt["exit_code"] for attempt in status["attempts"]] == [code], (name, status)
            assert status["phase"] == ("Succeeded" if code == 0 else "Failed"), (name, status)
            assert len(list(marks.glob(f"{name}.started.*"))) == 1, name
        calls.wait_answers(50)
    record_property("traffic", str(calls.seen))
    record_property("killed", len(killed))
    assert len(calls.seen.failed) <= 3 * killed.count("gateway"), calls.seen.failed


def _kill(mw: Mw, name: str) -> None:
    state = State.load(mw.home)
    identity = state.supervisor if name == "supervisor" else state.processes[name].identity
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    poll(lambda: not identity.alive())


def test_hundreds_of_jobs_cancelled_and_deleted_at_random(mw: Mw, client: Client) -> None:
    rest = random.Random(13)
    uids: dict[str, str] = {}
    for number in range(300):
        name = f"brief-{number}"
        uids[name] = submit(client, name, 0, 600.0)
        time.sleep(rest.uniform(0, 0.2))
        for other in rest.sample(sorted(uids), min(2, len(uids))):
            try:
                client.cancel_job(other) if rest.random() < 0.5 else client.delete(jobs.KIND, other)
            except (NotFound, ModelworksError):
                continue  # gone, or ended
    for document in list(client.resources(jobs.KIND)):
        try:
            client.delete(jobs.KIND, document["metadata"]["name"])
        except NotFound:
            continue
    poll(lambda: not list(client.resources(jobs.KIND)), 300)
    assert [line for uid in uids.values() for line in leftovers.of_workload(mw.home, uid)] == []
    assert phase_of(client.get("Service", "echo")) == "Running"


def test_code_replaced_again_and_again_under_load(mw: Mw, client: Client, tmp_path: Path) -> None:
    """No request fails while revisions follow each other, also before the last one has settled."""
    rest = random.Random(17)
    with traffic.steady(client.service_endpoint("echo"), client.service_token("echo")) as calls:
        for number in range(15):
            (tmp_path / "echo.py").write_text(f"# {number}\n{ECHO}")
            mw.ok("apply", "-f", "all.yaml", cwd=tmp_path)
            time.sleep(rest.uniform(0, 15))
        poll(lambda: "updating" not in client.get("Service", "echo")["status"]["message"], 120)
        calls.wait_answers(50)
    assert calls.seen.failed == []
