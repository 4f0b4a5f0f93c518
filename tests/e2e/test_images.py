"""Images on the real platform: a service that is one, its update, a job in one, and images that are nowhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import images, leftovers, traffic
from tests.agents import poll
from tests.cli_platform import Mw, fresh

from modelworks.runtime.container import Engine
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("containers")]
WORKLOAD_FAILED = 6
REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return images.engine()


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    return images.server(engine)


@pytest.fixture(scope="module")
def mw(engine: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mw]:
    with fresh() as one:
        (file := tmp_path_factory.mktemp("model") / "model.txt").write_text("weights")
        one.ok("bucket", "create", "mine")
        one.ok("bucket", "upload", str(file), "s3://mine/model/")
        yield one
        one.ok("down", "--grace", "5")
        assert leftovers.of_platform(one.home) == []
    assert containers(engine) == set()


def containers(engine: Engine) -> set[str]:
    names = engine.call("ps", "--all", "--format", "{{.Names}}").stdout.split()
    return {name for name in names if name.startswith("mw-")}


def manifest(kind: str, name: str, **spec: Any) -> str:
    own = {"instance_type": "local.tiny", "grace_period": "5s"}
    return yaml.safe_dump({"kind": kind, "metadata": {"name": name}, "spec": own | spec})


def get(client: Client, name: str) -> dict[str, Any]:
    return dict(client.get("Service", name))


def settled(client: Client, name: str, revision: str | None = None) -> bool:
    """One ready replica, of another revision than ``revision``."""
    document = get(client, name)
    found = document.get("status", {})
    running = found.get("replicas", [])
    return (
        phase_of(document) == "Running"
        and found.get("revision") != revision
        and [one["revision"] for one in running if one["ready"]] == [found["revision"]] == [running[0]["revision"]]
        and len(running) == 1
    )


def test_a_service_that_is_an_image(mw: Mw, client: Client, engine: Engine, image: str) -> None:
    spec: dict[str, Any] = {
        "processor": "image",
        "image": image,
        "args": ["--port", "$(PORT)"],
        "port": 9000,
        "env": {"GREETING": "hello"},
        "model": "s3://mine/model/",
        "grace_period": "15s",
    }
    created = mw("service", "create", "-f", "-", "--wait", stdin=manifest("Service", "boxed", **spec))
    assert created.returncode == 0, created.stderr
    assert "→" not in created.stderr, "an image is meant as one"
    document = get(client, "boxed")
    assert document["resolved"]["environment"]["image"] == image
    answer = mw.ok("service", "call", "boxed", "--path", "cgi-bin/who")
    assert "greeting=hello port=9000" in answer
    assert "version=1" in answer
    assert "weights" in answer, "the model is at /mnt/model"
    assert "with 2 arguments: --port 9000" in mw.ok("service", "log", "boxed")
    first, second = document["status"]["revision"], images.server(engine, 2)
    url = f"{client.service_endpoint('boxed')}/cgi-bin/who"
    with traffic.steady(url, client.service_token("boxed")) as calls:
        calls.wait_answers(20)
        mw.ok("service", "update", "boxed", "--image", second)
        poll(lambda: settled(client, "boxed", first))
        calls.wait_answers(20)
    assert calls.seen.failed == []
    said = {re.findall(rb"version=\d", body)[0] for body in calls.seen.bodies}
    assert said == {b"version=1", b"version=2"}
    assert get(client, "boxed")["spec"]["image"] == second
    uid = document["metadata"]["uid"]
    assert containers(engine)
    mw.ok("service", "delete", "boxed")
    poll(lambda: not containers(engine) and not leftovers.of_workload(mw.home, uid))


def test_a_command_in_an_image_and_what_fails_in_it(mw: Mw, client: Client, image: str) -> None:
    spec: dict[str, Any] = {"processor": "command", "environment": {"image": image}}
    good = {"command": 'VERSION=mine exec httpd -f -p "127.0.0.1:$PORT" -h /www', **spec}
    mw.ok("service", "create", "-f", "-", "--wait", stdin=manifest("Service", "told", **good))
    assert "version=mine" in mw.ok("service", "call", "told", "--path", "cgi-bin/who")
    mw.ok("service", "delete", "told")
    bad = {"command": ["/bin/nothing-like-it"], **spec}
    failed = mw("service", "create", "-f", "-", "--wait", stdin=manifest("Service", "amiss", **bad))
    assert failed.returncode == WORKLOAD_FAILED
    assert "nothing-like-it" in failed.stderr
    mw.ok("service", "delete", "amiss")


def test_an_image_that_is_nowhere(mw: Mw, client: Client) -> None:
    spec = {"processor": "image", "image": "localhost:1/no/such:1"}
    failed = mw("service", "create", "-f", "-", "--wait", stdin=manifest("Service", "nowhere", **spec))
    assert failed.returncode == WORKLOAD_FAILED
    assert "the image localhost:1/no/such:1 cannot be pulled" in failed.stderr
    assert "connection refused" in failed.stderr
    assert "check the name with" in failed.stderr
    mw.ok("service", "delete", "nowhere")


def test_the_platforms_own_server_is_not_in_an_image(mw: Mw, image: str) -> None:
    spec = {"processor": "onnx", "model": "s3://mine/model/", "environment": {"image": image}}
    refused = mw("apply", "-f", "-", stdin=manifest("Service", "onnx", **spec))
    assert refused.returncode == 2
    assert "spec.environment" in refused.stderr
    assert "processor: image" in refused.stderr


def test_a_job_in_an_image_reads_and_writes(mw: Mw, image: str, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.sh").write_text("cat $MW_INPUT_DATA/model.txt > $MW_OUTPUT_DIR/model.txt\nls /www\n")
    spec = {
        "command": "sh train.sh && echo $(cat /ml/input/config/hyperparameters.json)",
        "environment": {"image": image},
        "code": "code",
        "inputs": {"data": "s3://mine/model/"},
        "output": "s3://mine/trained/",
        "hyperparameters": {"rate": 0.5},
    }
    mw.ok("job", "run", "-f", "-", stdin=manifest("TrainingJob", "contained", **spec), cwd=tmp_path)
    log = mw.ok("job", "log", "contained")
    assert "cgi-bin" in log, "it is the image's own file system"
    assert '"rate": "0.5"' in log
    mw.ok("bucket", "download", "s3://mine/trained/model.txt", str(tmp_path / "got"))
    assert next(path for path in (tmp_path / "got", tmp_path / "got" / "model.txt") if path.is_file()).read_text() == (
        "weights"
    )


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """``host:port`` of a registry that holds nothing yet."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry")
    config = folder / "registry.yml"
    config.write_text(REGISTRY.format(root=folder / "images"))
    log = (folder / "registry.log").open("wb")
    process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        poll(lambda: "listening on" in (folder / "registry.log").read_text())
        found = re.search(r"listening on \S+?:(\d+)", (folder / "registry.log").read_text())
        assert found is not None
        yield f"localhost:{found[1]}"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_an_image_is_pulled_from_its_registry(
    mw: Mw, client: Client, engine: Engine, image: str, tmp_path: Path
) -> None:
    with registry(tmp_path) as address:
        there = f"{address}/shop/server:1"
        engine.call("tag", image, there)
        pushed = engine.call("push", *(["--tls-verify=false"] if engine.podman else []), there)
        assert pushed.returncode == 0, pushed.stderr
        engine.call("untag" if engine.podman else "rmi", there)
        try:
            spec = {"processor": "image", "image": there}
            mw.ok("service", "create", "-f", "-", "--wait", stdin=manifest("Service", "pulled", **spec))
            assert "version=1" in mw.ok("service", "call", "pulled", "--path", "cgi-bin/who")
            mw.ok("service", "delete", "pulled")
            missing = {"processor": "image", "image": f"{address}/shop/server:none"}
            failed = mw("service", "create", "-f", "-", "--wait", stdin=manifest("Service", "unknown", **missing))
            assert failed.returncode == WORKLOAD_FAILED
            assert "manifest unknown" in failed.stderr
            mw.ok("service", "delete", "unknown")
        finally:
            poll(lambda: not containers(engine))
            engine.call("rmi", "--force", there) if not engine.podman else engine.call("untag", there)
