"""Services as a user meets them, through `mw` and the gateway of the real platform."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests import leftovers, traffic
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("services")]
WORKLOAD_FAILED = 6


@pytest.fixture(scope="module")
def client(mw: Mw) -> Iterator[Client]:
    one = connect(mw)
    yield one
    one.close()


def connect(mw: Mw) -> Client:
    document = json.loads(mw.home.client.read_text())
    return Client(document["url"], document["api_key"])


def service(name: str, **spec: Any) -> str:
    spec = {"instance_type": "local.tiny", "grace_period": "5s", **spec}
    return yaml.safe_dump({"kind": "Service", "metadata": {"name": name}, "spec": spec})


def written(folder: Path, name: str, program: str, **spec: Any) -> Path:
    """A service's folder: its manifest beside its code."""
    folder.mkdir(exist_ok=True)
    (folder / "code.py").write_text(textwrap.dedent(program))
    (folder / "service.yaml").write_text(service(name, code=".", **spec))
    return folder


def status(client: Client, name: str) -> dict[str, Any]:
    return dict(client.get("Service", name).get("status") or {})


def echo(version: int) -> str:
    return f"""
        class Echo:
            def initialize(self):
                self.calls = 0
            def process(self, data):
                self.calls += 1
                return {{"version": {version}, "data": data}}
        """


def test_a_class_of_the_users_behind_its_token(mw: Mw, client: Client, tmp_path: Path) -> None:
    folder = written(tmp_path / "echo", "echo", echo(1), processor="python", entry="code.py:Echo",
                     batching={"max_batch_size": 8})  # fmt: skip
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    (warning,) = status(client, "echo")["warnings"]
    assert warning.startswith("batching has no effect")
    assert warning in mw.ok("service", "get", "echo")
    assert json.loads(mw.ok("service", "call", "echo", "-d", '{"x": [1, 2]}')) == {"version": 1, "data": {"x": [1, 2]}}
    url, token = client.service_endpoint("echo"), mw.ok("service", "token", "echo").strip()
    with httpx.Client(trust_env=False) as http:
        for authorization in (token, f"Bearer {token}"):
            assert http.post(url, json={}, headers={"Authorization": authorization}).status_code == 200
        for headers in ({}, {"Authorization": "wrong"}, {"Authorization": f"Bearer {token}x"}):
            refused = http.post(url, json={}, headers=headers)
            assert (refused.status_code, refused.json()["status"]) == (401, 401)
            assert refused.headers["content-type"] == "application/problem+json"
        unknown = http.post(client.service_endpoint("nobody"), json={}, headers={"Authorization": token})
        assert (unknown.status_code, unknown.json()["status"]) == (404, 404)


def test_new_code_without_a_failed_request(mw: Mw, client: Client, tmp_path: Path) -> None:
    folder = written(tmp_path / "roll", "roll", echo(1), processor="python", entry="code.py:Echo", replicas=2)
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    first = status(client, "roll")["revision"]
    with traffic.steady(client.service_endpoint("roll"), client.service_token("roll")) as calls:
        calls.wait_answers(20)
        (folder / "code.py").write_text(textwrap.dedent(echo(2)))
        assert "updated" in mw.ok("service", "create", "-f", "service.yaml", cwd=folder)
        poll(lambda: _settled(client, "roll", replicas=2) and status(client, "roll")["revision"] != first)
        calls.wait_answers(20)
    assert calls.seen.failed == []
    versions = sorted(json.loads(body)["version"] for body in calls.seen.bodies)
    assert versions == [1, 2]
    assert json.loads(mw.ok("service", "call", "roll", "-d", "{}"))["version"] == 2
    assert "unchanged" in mw.ok("service", "create", "-f", "service.yaml", cwd=folder)


def _settled(client: Client, name: str, replicas: int) -> bool:
    """All replicas are of the wanted revision, and the older ones are gone."""
    document = client.get("Service", name)
    running = document.get("status", {}).get("replicas", [])
    return (
        phase_of(document) == "Running"
        and len(running) == replicas
        and all(one["ready"] and one["revision"] == document["status"]["revision"] for one in running)
    )


def test_new_code_that_fails_leaves_the_old_serving(mw: Mw, client: Client, tmp_path: Path) -> None:
    folder = written(tmp_path / "roll", "roll", "raise ImportError('no module named tensors')",
                     processor="python", entry="code.py:Echo", replicas=2)  # fmt: skip
    with traffic.steady(client.service_endpoint("roll"), client.service_token("roll")) as calls:
        mw.ok("service", "create", "-f", "service.yaml", cwd=folder)
        poll(lambda: phase_of(client.get("Service", "roll")) == "Degraded")
        calls.wait_answers(20)
    assert calls.seen.failed == []
    assert "an older one serves" in status(client, "roll")["message"]
    assert "no module named tensors" in status(client, "roll")["message"]


FRAGILE = """
    import os
    class Fragile:
        def process(self, data):
            return os._exit(3) if data.get("die") else {"text": data["text"]}
    """


def test_the_log_of_a_replica_that_crashed_stays_in_reach(mw: Mw, client: Client, tmp_path: Path) -> None:
    folder = written(tmp_path / "fragile", "fragile", FRAGILE, processor="python", entry="code.py:Fragile")
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    early = mw("service", "log", "fragile", "--previous")
    assert (early.returncode, "no run of replica 0" in early.stderr) == (3, True), early
    assert json.loads(mw("service", "call", "fragile", "-d", "{}").stdout)["detail"] == "KeyError: 'text'"
    refused = json.loads(mw("service", "call", "fragile", "-d", '{"die": 1}').stdout)
    assert (refused["status"], "`mw service log fragile`" in refused["remedy"]) == (502, True), refused
    poll(lambda: status(client, "fragile")["slots"][0]["incarnation"] == 1)
    # The process said nothing at its end: what it said of a request before is not why.
    assert status(client, "fragile")["slots"][0]["cause"] == "exit code 3"
    poll(lambda: phase_of(client.get("Service", "fragile")) == "Running")
    assert "KeyError: 'text'" not in mw.ok("service", "log", "fragile")
    for log in (("service", "log", "fragile", "--previous"), ("logs", "fragile", "--previous")):
        assert "KeyError: 'text'" in mw.ok(*log)
    mw.ok("service", "delete", "fragile")


SERVER = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"path": self.path})
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer({"path": self.path, "body": body.decode(), "authorization": self.headers.get("Authorization")})
    def answer(self, document):
        data = json.dumps(document).encode()
        self.send_response(200 if self.path != "/missing" else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.mark.parametrize("network", ["isolated", "host"])
def test_any_server_on_its_port(mw: Mw, tmp_path: Path, network: str) -> None:
    folder = written(
        tmp_path / "any", f"any-{network}", SERVER, processor="command", command="exec python code.py",
        readiness={"path": "/alive"}, network=network,
    )  # fmt: skip
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    answer = json.loads(mw.ok("service", "call", f"any-{network}", "-d", "text", "--path", "v1/x?y=1"))
    assert answer == {"path": "/v1/x?y=1", "body": "text", "authorization": None}
    missing = mw("service", "call", f"any-{network}", "--path", "missing")
    assert (missing.returncode, json.loads(missing.stdout)) == (1, {"path": "/missing"})
    mw.ok("service", "delete", f"any-{network}")


@pytest.mark.parametrize(
    ("name", "spec", "code", "said"),
    [
        ("loops", {}, "import sys; print('cannot find weights.bin'); sys.exit(3)", "CrashLoop"),
        ("silent", {"readiness": {"path": "/", "startup": "1s"}}, "import time; time.sleep(600)", "not ready within 1"),
    ],
    ids=["crash-loop", "never-ready"],
)
def test_what_never_serves_says_why(
    mw: Mw, client: Client, tmp_path: Path, name: str, spec: dict[str, Any], code: str, said: str
) -> None:
    folder = written(tmp_path / name, name, code, processor="command", command="exec python code.py", **spec)
    done = mw("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    assert done.returncode == WORKLOAD_FAILED, done.stderr
    poll(lambda: said in status(client, name)["message"])
    assert phase_of(client.get("Service", name)) == "Failed"
    if name == "loops":
        assert "cannot find weights.bin" in "\n".join(status(client, name)["last_lines"])
        assert "exit code 3" in status(client, name)["message"]
        assert "cannot find weights.bin" in mw.ok("service", "log", name)
    refused = mw("service", "call", name, "-d", "{}", "--json")
    answer = json.loads(refused.stdout)
    assert (refused.returncode, answer["status"]) == (1, 503)
    uid = client.get("Service", name)["metadata"]["uid"]
    mw.ok("service", "delete", name)
    assert leftovers.of_workload(mw.home, uid) == []


def test_rotate_stop_start_delete(mw: Mw, client: Client, tmp_path: Path) -> None:
    folder = written(tmp_path / "life", "life", echo(1), processor="python", entry="code.py:Echo")
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    old = mw.ok("service", "token", "life").strip()
    new = mw.ok("service", "rotate-token", "life").strip()
    assert new != old
    ask = _asking(client.service_endpoint("life"))
    assert ask(new) == 200
    poll(lambda: ask(old) == 401)
    uid = client.get("Service", "life")["metadata"]["uid"]
    mw.ok("service", "stop", "life", "--wait")
    poll(lambda: ask(new) == 503)
    poll(lambda: leftovers.processes(uid) == [])
    poll(lambda: status(client, "life")["message"] == "stopped")
    assert mw.ok("service", "stop", "life") == "Service/life is stopped\n"
    mw.ok("service", "start", "life", "--wait")
    assert ask(new) == 200
    assert mw.ok("service", "start", "life") == "Service/life runs already\n"
    missed = mw("service", "call", "life")
    assert (missed.returncode, "`mw service call life -d '{…}'` sends a prediction" in missed.stderr) == (1, True), (
        missed
    )
    mw.ok("service", "delete", "life")
    poll(lambda: ask(new) == 404)
    assert leftovers.of_workload(mw.home, uid) == []


def _asking(url: str) -> Callable[[str], int]:
    def ask(token: str) -> int:
        return httpx.post(url, json={}, headers={"Authorization": token}, trust_env=False).status_code

    return ask


def test_down_ends_every_workload_and_up_brings_them_back(mw: Mw, client: Client) -> None:
    """Nothing is started again while the platform goes down; what should run runs after the next up."""
    job = {"kind": "TrainingJob", "metadata": {"name": "long"}}
    spec = {"command": "echo begun; sleep 600", "instance_type": "local.tiny", "grace_period": "1s"}
    mw.ok("job", "submit", "-f", "-", stdin=yaml.safe_dump({**job, "spec": spec}))
    poll(lambda: "begun" in mw.ok("job", "log", "long"))
    ask, token = _asking(client.service_endpoint("echo")), client.service_token("echo")
    assert ask(token) == 200
    told = mw.ok("down", "--grace", "5")
    assert "had no agent" not in told
    assert leftovers.of_platform(mw.home) == []
    mw.ok("up", "--detach")
    client = connect(mw)  # at another port
    ask = _asking(client.service_endpoint("echo"))
    poll(lambda: ask(token) == 200)
    poll(lambda: phase_of(client.get("TrainingJob", "long")) == "Running")
    assert [attempt["reason"] for attempt in client.get("TrainingJob", "long")["status"]["attempts"]] == ["Stopped"]
    client.close()
