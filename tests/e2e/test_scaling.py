"""Autoscaling through the real platform: to zero and back, out under load and in again, and what explain says of it."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.sdk.client import Client
from modelworks.supervisor.state import State

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("services")]

# It tells when its process began and when it could answer first: what is between is the model's own time.
SERVER = """
    import json, os, sys, time
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    began = float(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    pause = float(sys.argv[2])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            self.answer({})
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(max(pause, 0.0))
            end = time.thread_time() - pause
            while time.thread_time() < end:
                pass
            self.answer({"began": boot + began, "able": able})
        def answer(self, document):
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    able = time.time()
    server.serve_forever()
    """


def create(mw: Mw, folder: Path, name: str, pause: float = 0.0, **spec: Any) -> None:
    folder.mkdir()
    (folder / "server.py").write_text(textwrap.dedent(SERVER))
    document = {
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "processor": "command",
            "command": f"python $MW_CODE_DIR/server.py $PORT {pause}",
            "code": ".",
            "grace_period": "5s",
            **({} if "resources" in spec else {"instance_type": "local.tiny"}),
            **spec,
        },
    }
    (folder / "service.yaml").write_text(yaml.safe_dump(document))
    mw.ok("service", "create", "-f", "service.yaml", cwd=folder)


def replicas(client: Client, name: str) -> tuple[str, int, int]:
    status = client.get("Service", name).get("status") or {}
    return status.get("phase", ""), (status.get("scale") or {}).get("replicas", -1), status.get("ready", 0)


def at_rest(client: Client, name: str) -> bool:
    """Scaled to zero, and the last replica has ended."""
    return replicas(client, name) == ("Idle", 0, 0) and not client.get("Service", name)["status"].get("replicas")


def explained(mw: Mw, name: str) -> dict[str, Any]:
    return dict(json.loads(mw.ok("service", "explain", name, "--json")))


def test_to_zero_and_back_by_a_request(
    mw: Mw, client: Client, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    create(mw, tmp_path / "zero", "zero", autoscaling={"min": 0, "max": 2, "idle": "2s"})
    poll(lambda: at_rest(client, "zero"), 60)
    url, token = client.service_endpoint("zero"), mw.ok("service", "token", "zero").strip()
    with httpx.Client(trust_env=False, timeout=60) as http:
        sent = time.time()
        answer = http.post(url, json={}, headers={"Authorization": token})
        took = time.time() - sent
        assert answer.status_code == 200
        own = answer.json()["able"] - answer.json()["began"]
        record_property("from_zero_extra_ms", round((took - own) * 1000))
        poll(lambda: at_rest(client, "zero"), 60)
        # Many at once are held until the one replica answers them all, whether or not the courier says anything.
        codes: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: codes.append(http.post(url, json={}, headers={"Authorization": token}).status_code)
            )
            for _ in range(12)
        ]
        courier = State.load(mw.home).processes["courier"].identity
        assert courier is not None
        os.kill(courier.pid, signal.SIGSTOP)
        try:
            poll(lambda: not explained(mw, "zero")["queue"]["known"])
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            os.kill(courier.pid, signal.SIGCONT)
    assert codes == [200] * 12
    poll(lambda: explained(mw, "zero")["queue"]["known"])
    found = explained(mw, "zero")
    assert {"Idle", "FromZero", "Initial"} <= {decision["reason"] for decision in found["decisions"]}
    text = mw.ok("service", "explain", "zero")
    assert "replicas:" in text
    assert "queue: 0 wait" in text


def test_out_under_load_and_in_again(mw: Mw, client: Client, tmp_path: Path) -> None:
    scaling = {
        "min": 1, "max": 3, "metrics": {"concurrency": 4}, "scale_in_stabilization": "5s", "scale_in_cooldown": "0s",
    }  # fmt: skip
    create(mw, tmp_path / "load", "load", 0.2, autoscaling=scaling, resources={"cpu": "50m", "memory": "128Mi"})
    poll(lambda: replicas(client, "load") == ("Running", 1, 1), 60)
    url, token = client.service_endpoint("load"), mw.ok("service", "token", "load").strip()
    stopping = threading.Event()
    codes: set[int] = set()

    def call() -> None:
        with httpx.Client(trust_env=False, timeout=60) as http:
            while not stopping.is_set():
                codes.add(http.post(url, json={}, headers={"Authorization": token}).status_code)

    threads = [threading.Thread(target=call) for _ in range(40)]
    for thread in threads:
        thread.start()
    try:
        poll(lambda: replicas(client, "load")[1:] == (3, 3), 60)
        found = explained(mw, "load")
        assert (found["wanted"], found["max"]) == (3, 3)
        assert "at max" in found["why"]
        assert found["metrics"][0]["total"] > 12
        assert found["queue"]["arrived_per_second"] > 1
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert codes == {200}
    poll(lambda: replicas(client, "load") == ("Running", 1, 1), 60)
    decisions = explained(mw, "load")["decisions"]
    assert [one["reason"] for one in decisions[-2:]] == ["Load", "Initial"]
    assert decisions[-2]["numbers"]["metrics"][0]["total"] > 4.4
    events = [one["reason"] for one in client.events("Service", "load")[0]]
    assert "Scaled" in events


def test_out_by_the_cpu_that_is_used(mw: Mw, client: Client, tmp_path: Path) -> None:
    scaling = {"min": 1, "max": 2, "metrics": {"cpu": 0.5}}
    create(mw, tmp_path / "busy", "busy", -0.02, autoscaling=scaling, resources={"cpu": "50m", "memory": "128Mi"})
    poll(lambda: replicas(client, "busy") == ("Running", 1, 1), 60)
    url, token = client.service_endpoint("busy"), mw.ok("service", "token", "busy").strip()
    with httpx.Client(trust_env=False, timeout=60) as http:

        def scaled() -> bool:
            for _ in range(20):
                assert http.post(url, json={}, headers={"Authorization": token}).status_code == 200
            return replicas(client, "busy")[1] == 2

        poll(scaled, 60)
    (metric,) = explained(mw, "busy")["decisions"][0]["numbers"]["metrics"]
    assert metric["metric"] == "cpu"
    assert metric["total"] > 0.55


def test_a_service_that_nothing_scales_shows_its_queue(mw: Mw, client: Client, tmp_path: Path) -> None:
    create(mw, tmp_path / "fixed", "fixed", resources={"cpu": "50m", "memory": "128Mi"})
    poll(lambda: replicas(client, "fixed")[0] == "Running", 60)
    text = mw.ok("service", "explain", "fixed")
    assert "it is not autoscaled" in text
    assert "queue: 0 wait" in text


def test_every_metric_of_the_alerting_rules_is_given(mw: Mw, client: Client) -> None:
    document = json.loads(mw.home.client.read_text())
    with httpx.Client(trust_env=False) as http:
        answer = http.get(
            f"{document['url']}/api/v1/metrics", headers={"Authorization": f"Bearer {document['api_key']}"}
        )
        assert http.get(f"{document['url']}/api/v1/metrics").status_code == 401
    assert answer.status_code == 200
    given = set(re.findall(r"^# TYPE (\S+)", answer.text, re.MULTILINE))
    for group in yaml.safe_load((resources.files("modelworks") / "data" / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bmw_[a-z0-9_]+", rule["expr"])}
            assert names <= given, rule["alert"]
    assert 'mw_process_up{process="gateway"} 1' in answer.text
    assert re.search(r'^mw_gateway_requests_total\{process="gateway",', answer.text, re.MULTILINE)
