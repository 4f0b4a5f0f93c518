"""Services written for other systems: the cloud's service JSON and a Deployment, on the real platform."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli_platform import Mw

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("imports")]

SERVER = """
import http.server, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404 if self.command == "GET" and os.environ["SAYS"] == "deployed" else 200)
        self.end_headers()
        mounted = pathlib.Path("/mnt/data/word.txt")
        self.wfile.write((os.environ["SAYS"] + (mounted.read_text() if mounted.exists() else "")).encode())
    do_POST = do_GET
http.server.ThreadingHTTPServer(("127.0.0.1", 9000), Handler).serve_forever()
"""
DEPLOYMENT = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80, targetPort: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {team: a}}
spec:
  replicas: 1
  template:
    spec:
      terminationGracePeriodSeconds: 2
      containers:
        - name: web
          image: registry.example/python-data:1
          command: [python, -c, SERVER]
          ports: [{containerPort: 9000}]
          env: [{name: SAYS, value: deployed}]
          resources: {limits: {cpu: 100m, memory: 256Mi}}
          readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}
"""


def test_service_json_by_the_clouds_verbs(mw: Mw, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "server.py").write_text(SERVER)
    document = {
        "token": "ignored",
        "name": "said",
        "containers": [
            {
                "image": "default",
                "command": "python server.py",
                "port": 9000,
                "env": [{"name": "SAYS", "value": "one"}],
                "health_check": {"path": "/", "timeout_seconds": 3},
            }
        ],
        "metadata": {"instance": 1, "cpu": 0.1, "memory": 256, "rpc": {"keepalive": 5000, "worker_threads": 4}},
        "metadata.eas.termination_grace_period": 2,
        "storage": [
            {"mount_path": "/ml/usercode", "oss": {"path": "code"}},
            {"mount_path": "/mnt/data", "oss": {"path": "oss://words/in", "readOnly": True}},
        ],
    }
    (tmp_path / "service.json").write_text(json.dumps(document))
    (tmp_path / "word.txt").write_text(", mounted")
    mw.ok("bucket", "create", "words")
    mw.ok("bucket", "upload", str(tmp_path / "word.txt"), "s3://words/in/word.txt")
    created = mw("eas", "create", "service.json", "--wait", cwd=tmp_path)
    assert created.returncode == 0, created.stderr
    assert "note: token has no effect here" in created.stderr
    assert mw.ok("service", "call", "said") == "one, mounted"
    document["containers"][0]["env"] = [{"name": "SAYS", "value": "two"}]  # type: ignore[index]
    (tmp_path / "change.json").write_text(json.dumps({"containers": document["containers"]}))
    mw.ok("eas", "modify", "said", "-s", "change.json", "--wait", cwd=tmp_path)
    assert mw.ok("service", "call", "said") == "two, mounted"
    mw.ok("eas", "version", "said", "1", "--wait")
    assert mw.ok("service", "call", "said") == "one, mounted"
    spec = json.loads(mw.ok("eas", "desc", "said", "--json"))["spec"]
    assert (spec["keepalive"], spec["concurrency"], spec["grace_period"], spec["port"]) == (5, 4, 2, 9000)
    mw.ok("eas", "delete", "said")


def test_a_deployment_serves(mw: Mw, tmp_path: Path) -> None:
    text = DEPLOYMENT.replace("SERVER", json.dumps(SERVER))
    (tmp_path / "web.yaml").write_text(text)
    applied = mw("service", "create", "-f", "web.yaml", "--wait", cwd=tmp_path)
    assert applied.returncode == 0, applied.stderr
    assert "a Service of Kubernetes is not needed" in applied.stderr
    assert "python-data" in applied.stderr  # the image's name stands for an environment
    assert mw.ok("service", "call", "web", "-d", "{}") == "deployed"
    mw.ok("service", "delete", "web")


def test_an_adapter_finds_its_base_by_name(mw: Mw, tmp_path: Path) -> None:
    adapter, base = tmp_path / "adapter", tmp_path / "base"
    for folder in (adapter, base):
        folder.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Tiny/Base-1.5", "r": 4}))
    (base / "config.json").write_text("{}")
    mw.ok("model", "register", "tuned", "--uri", str(adapter))
    manifest = {
        "kind": "Service",
        "metadata": {"name": "tuned"},
        "spec": {"processor": "vllm", "model": "tuned:1", "stopped": True},
    }
    (tmp_path / "tuned.json").write_text(json.dumps(manifest))
    refused = mw("apply", "-f", "tuned.json", cwd=tmp_path)
    assert refused.returncode == 2
    assert "trained on Tiny/Base-1.5: give base_model, or register that as base-1.5" in refused.stderr
    mw.ok("model", "register", "base-1.5", "--uri", str(base))
    applied = mw("apply", "-f", "tuned.json", cwd=tmp_path)
    assert "note: base_model base-1.5: tuned:1 was trained on Tiny/Base-1.5" in applied.stderr
    assert "vllm without a GPU" in applied.stderr
    mw.ok("service", "delete", "tuned")
