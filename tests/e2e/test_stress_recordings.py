"""Captured requests sent again, the plot of a load test, and a profile that is interrupted: on the real platform."""

from __future__ import annotations

import json
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tests import leftovers
from tests.agents import poll
from tests.cli_platform import MW, Mw, fresh

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("stress")]
ECHO = """
    class Echo:
        def process(self, data):
            return {"length": len(str(data))}
    """


@pytest.fixture(scope="module")
def mw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mw]:
    folder = tmp_path_factory.mktemp("echo")
    (folder / "code.py").write_text(textwrap.dedent(ECHO))
    spec = {
        "processor": "python", "entry": "code.py:Echo", "code": ".", "instance_type": "local.tiny",
        "grace_period": "2s", "capture": {"uri": "s3://captured/of/", "percent": 100, "max_body": 1024},
    }  # fmt: skip
    (folder / "service.yaml").write_text(
        yaml.safe_dump({"kind": "Service", "metadata": {"name": "echo"}, "spec": spec})
    )
    with fresh() as one:
        one.ok("bucket", "create", "captured")
        one.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
        yield one
        one.ok("down", "--grace", "5")
        assert leftovers.of_platform(one.home) == []


def captured(mw: Mw, folder: Path) -> list[str]:
    if mw("bucket", "download", "s3://captured/of/", str(folder)).returncode:
        return []
    return [line for file in folder.rglob("*.jsonl") for line in file.read_text().split("\n") if line]


def test_captured_requests_are_sent_again_and_drawn(mw: Mw, tmp_path: Path) -> None:
    for number in range(4):
        mw.ok("service", "call", "echo", "-d", json.dumps({"x": number}))
    mw.ok("service", "call", "echo", "-d", json.dumps({"x": "long" * 1000}))
    folder, picture = tmp_path / "captured", tmp_path / "knee.png"
    poll(lambda: len(captured(mw, folder)) >= 5, timeout=90)
    done = mw(
        "service", "stress", "echo", "--replay", str(folder), "--speed", "20", "--plot", str(picture), "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (step,) = json.loads(done.stdout)["steps"]
    assert (step["sent"], step["good"]) == (4, 4)
    assert "not sent: 1 requests that were cut before their bodies ended" in done.stderr
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
        assert len(drawn.convert("RGB").getcolors(1 << 20) or ()) > 10, "it shows nothing"
    (tmp_path / "empty").mkdir()
    nothing = mw("service", "stress", "echo", "--replay", str(tmp_path / "empty"))
    assert (nothing.returncode, "holds no .jsonl file" in nothing.stderr) == (2, True)


def test_an_interrupted_profile_leaves_no_copy_and_changes_nothing(mw: Mw) -> None:
    before = json.loads(mw.ok("service", "get", "echo", "--json"))["spec"]
    command = [*MW, "service", "profile", "echo", "-d", "{}", "--duration", "60s"]
    with subprocess.Popen(
        command, env=mw.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        poll(lambda: any(ready(one) for one in copies(mw)), timeout=90)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "interrupted: nothing is changed" in err
    assert "Traceback" not in err
    assert copies(mw) == []
    assert json.loads(mw.ok("service", "get", "echo", "--json"))["spec"] == before


def copies(mw: Mw) -> list[dict[str, object]]:
    items = json.loads(mw.ok("service", "list", "--json"))["items"]
    return [one for one in items if one["metadata"]["name"].startswith("echo-profile-")]


def ready(service: dict[str, object]) -> bool:
    status = service["status"]
    return isinstance(status, dict) and status.get("phase") == "Running"
