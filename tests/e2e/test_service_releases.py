"""Canary, promotion, rollback and reversal at a constant load: whoever calls never notices."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests import traffic
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.kernel.errors import Conflict, NotFound
from modelworks.sdk import services
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("releases")]
RATE = 200.0
PROGRAM = """
    import os
    class Echo:
        def initialize(self):
            self.version, self.fails = os.environ["VERSION"], os.environ.get("FAILS")
        def process(self, data):
            if self.fails:
                raise ValueError("this revision is broken")
            return {"version": self.version}
    """


def write(folder: Path, name: str, version: str, **spec: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "code.py").write_text(textwrap.dedent(PROGRAM))
    own = {"processor": "python", "entry": "code.py:Echo", "code": ".", "env": {"VERSION": version}}
    spec = {"instance_type": "local.tiny", "grace_period": "5s", **own, **spec}
    document = {"kind": "Service", "metadata": {"name": name}, "spec": spec}
    (folder / "service.yaml").write_text(yaml.safe_dump(document))


def status(client: Client, name: str) -> dict[str, Any]:
    return dict(client.get("Service", name).get("status") or {})


def keys(client: Client, name: str) -> set[str]:
    return {one["key"] for one in status(client, name)["replicas"]}


def settled(client: Client, name: str, own: int, beside: int = 0) -> bool:
    """So many replicas of the service's revision, so many of its canary, and no others."""
    document = client.get("Service", name)
    found = document["status"]
    canary = (found.get("canary") or {}).get("revision")
    ready = [one["revision"] for one in found["replicas"] if one["ready"]]
    return (
        found["observed_generation"] == document["metadata"]["generation"]
        and len(found["replicas"]) == own + beside
        and ready.count(found["revision"]) == own
        and ready.count(canary) == beside
    )


def versions(calls: traffic.Client) -> list[str]:
    return sorted(json.loads(body)["version"] for body in calls.seen.bodies)


def test_canary_promotion_and_rollback_at_a_constant_load(mw: Mw, client: Client, tmp_path: Path) -> None:
    write(tmp_path / "calm", "calm", "1", replicas=2)
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=tmp_path / "calm")
    first = status(client, "calm")["revision"]
    with pytest.raises(Conflict):
        services.update_canary(client, "calm", weight=10)
    with traffic.steady(client.service_endpoint("calm"), client.service_token("calm"), RATE) as calls:
        calls.wait_answers(50)
        services.update_canary(client, "calm", weight=10, env={"VERSION": "2"})
        poll(lambda: settled(client, "calm", 2, 1))
        poll(lambda: versions(calls) == ["1", "2"])
        runs = {one["key"] for one in status(client, "calm")["replicas"]}
        services.update_canary(client, "calm", weight=50)
        poll(lambda: settled(client, "calm", 2, 1))
        calls.wait_answers(100)
        assert {one["key"] for one in status(client, "calm")["replicas"]} == runs
        second = status(client, "calm")["canary"]["revision"]
        services.update_canary(client, "calm", weight=100)
        poll(lambda: settled(client, "calm", 2))
        assert status(client, "calm")["revision"] == second
        assert runs & {one["key"] for one in status(client, "calm")["replicas"]}, "the canary's replica was kept"
        calls.wait_answers(50)
        services.rollback(client, "calm")
        poll(lambda: settled(client, "calm", 2) and status(client, "calm")["revision"] == first)
        calls.wait_answers(50)
        services.rollback(client, "calm", to=2)
        poll(lambda: settled(client, "calm", 2) and status(client, "calm")["revision"] == second)
        calls.wait_answers(50)
    assert calls.seen.failed == [], str(calls.seen)
    listed = services.revisions(client, "calm")
    assert [(one["number"], one["revision"], one["current"]) for one in listed] == [
        (2, second, True),
        (1, first, False),
    ]
    with pytest.raises(NotFound, match="no revision 7"):
        services.rollback(client, "calm", to=7)
    assert client.get("Service", "calm")["spec"]["env"] == {"VERSION": "2"}


def test_a_canary_is_ended_by_weight_zero(client: Client) -> None:
    """After the test above."""
    with traffic.steady(client.service_endpoint("calm"), client.service_token("calm"), RATE) as calls:
        services.update_canary(client, "calm", weight=50, env={"VERSION": "3"})
        poll(lambda: settled(client, "calm", 2, 1))
        poll(lambda: "3" in versions(calls))
        services.update_canary(client, "calm", weight=0)
        poll(lambda: settled(client, "calm", 2))
        calls.wait_answers(50)
    assert calls.seen.failed == [], str(calls.seen)
    assert "canary" not in client.get("Service", "calm")["spec"]


def test_a_canary_that_is_worse_is_taken_back_by_itself(client: Client) -> None:
    """After the tests above: it fails every request that it gets, and soon gets none."""
    with traffic.steady(client.service_endpoint("calm"), client.service_token("calm"), RATE) as calls:
        services.update_canary(client, "calm", weight=50, env={"FAILS": "1"})
        poll(lambda: status(client, "calm").get("reversed"))
        poll(lambda: settled(client, "calm", 2))
        failed = len(calls.seen.failed)
        calls.wait_answers(200)
        assert len(calls.seen.failed) == failed
    assert all(text.startswith("500") for _, text in calls.seen.failed)
    found = status(client, "calm")
    assert phase_of(client.get("Service", "calm")) == "Degraded"
    assert found["reason"] == "Reversed"
    assert "answers failed" in found["message"]
    assert any(event["reason"] == "Reversed" for event in client.events(kind="Service", name="calm")[0])
    newest, *others = services.revisions(client, "calm")
    assert "answers failed" in newest["reversed"]
    assert {one["reversed"] for one in others} == {None}
    services.update_canary(client, "calm", weight=0)
    poll(lambda: phase_of(client.get("Service", "calm")) == "Running")


def test_an_update_that_is_worse_is_taken_back_by_itself(mw: Mw, client: Client, tmp_path: Path) -> None:
    write(tmp_path / "careful", "careful", "1", replicas=2, traffic={"reversal": {"window": "30s"}})
    folder = tmp_path / "careful"
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    first = status(client, "careful")["revision"]
    with traffic.steady(client.service_endpoint("careful"), client.service_token("careful"), RATE) as calls:
        calls.wait_answers(100)
        write(folder, "careful", "2", replicas=2, env={"VERSION": "2", "FAILS": "1"})
        mw.ok("service", "create", "-f", "service.yaml", cwd=folder)
        poll(lambda: status(client, "careful").get("reversed"))
        poll(lambda: settled(client, "careful", 2) and status(client, "careful")["revision"] == first)
        failed = len(calls.seen.failed)
        calls.wait_answers(200)
        assert len(calls.seen.failed) == failed
    assert all(text.startswith("500") for _, text in calls.seen.failed)
    assert "was taken back" in status(client, "careful")["message"]
    assert "unchanged" in mw.ok("service", "create", "-f", "service.yaml", cwd=folder)
    client.resume_service("careful")
    poll(lambda: settled(client, "careful", 2) and status(client, "careful")["revision"] != first)
    services.rollback(client, "careful")
    poll(lambda: settled(client, "careful", 2) and status(client, "careful")["revision"] == first)
    mw.ok("service", "delete", "careful")


HANGS = """
    import threading
    class Moody:
        def initialize(self):
            self.hangs = False
        def process(self, data):
            self.hangs = self.hangs or bool(data.get("hang"))
            if self.hangs:
                threading.Event().wait()
            return {}
    """


def test_a_replica_that_answers_its_health_check_and_hangs_is_replaced(mw: Mw, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "moody"
    write(folder, "moody", "1", replicas=2, entry="code.py:Moody", hang_timeout="2s")
    (folder / "code.py").write_text(textwrap.dedent(HANGS))
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    before = keys(client, "moody")
    url, token = client.service_endpoint("moody"), client.service_token("moody")
    with httpx.Client(trust_env=False, timeout=60.0, headers={"Authorization": token}) as http:
        assert http.post(url, json={"hang": True}).status_code == 502, "it ends with its replica"
        poll(lambda: settled(client, "moody", 2) and keys(client, "moody") != before)
        assert len(before & keys(client, "moody")) == 1
        assert {http.post(url, json={}).status_code for _ in range(20)} == {200}
    mw.ok("service", "delete", "moody")


GREEDY = """
    class Greedy:
        def process(self, data):
            held = [bytearray(b"x" * (8 << 20)) for _ in range(int(data.get("take", 0)))]
            return {"held": len(held)}
    """


def test_a_replica_that_ran_out_of_memory_comes_back_smaller(mw: Mw, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "greedy"
    own = {"batching": {"max_batch_size": 8}, "concurrency": 8}
    write(folder, "greedy", "1", entry="code.py:Greedy", **own)
    (folder / "code.py").write_text(textwrap.dedent(GREEDY))
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    url, token = client.service_endpoint("greedy"), client.service_token("greedy")
    with httpx.Client(trust_env=False, timeout=60.0, headers={"Authorization": token}) as http:
        assert http.post(url, json={"take": 4096}).status_code == 502
        poll(lambda: status(client, "greedy")["slots"][0].get("halvings") == 1)
        poll(lambda: settled(client, "greedy", 1))
        assert status(client, "greedy")["slots"][0]["reason"] == "OutOfMemory"
        assert "ran out of memory and gets smaller batches" in status(client, "greedy")["message"]
        assert http.post(url, json={"take": 1}).json() == {"held": 1}
    mw.ok("service", "delete", "greedy")
