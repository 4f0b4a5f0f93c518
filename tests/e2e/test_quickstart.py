"""`mw quickstart` on a fresh home, again, and after an interruption: what it prints works when pasted."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli_platform import MW, Mw, fresh

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("quickstart")]


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh(up=False) as one:
        yield one


def test_an_interrupted_run_and_then_a_whole_one(mw: Mw) -> None:
    """Ctrl-C once the job has begun; the next run goes on from there, starting nothing twice."""
    first = subprocess.Popen(
        [*MW, "quickstart"],
        env=mw.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("3/5"):
            break
    os.kill(first.pid, signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode == 130

    done = mw("quickstart", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result) == ["accuracy", "p50_ms", "p99_ms", "endpoint", "token", "seconds", "cost"]
    assert result["accuracy"] >= 0.95
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["cost"] > 0
    assert len(json.loads(mw.ok("job", "list", "--json"))["items"]) == 1


def test_the_second_run_reuses_what_is_there_and_its_lines_can_be_pasted(mw: Mw) -> None:
    before = json.loads(mw.ok("get", "job", "digits", "--json"))["metadata"]
    text = mw.ok("quickstart")
    assert "has run before" in text
    assert "digits:1 is registered" in text
    assert json.loads(mw.ok("get", "job", "digits", "--json"))["metadata"]["uid"] == before["uid"]

    lines = text.splitlines()
    label = int(next(line for line in lines if line.startswith("Call it with curl")).split("is a ")[1][0])
    curl = next(line for line in lines if line.startswith("curl "))
    answer = subprocess.run(shlex.split(curl), capture_output=True, text=True, timeout=30, check=True).stdout
    assert json.loads(answer)["predictions"] == [label]
    start = next(index for index, line in enumerate(lines) if line.startswith("import json"))
    snippet = "\n".join(lines[start : start + 5])
    printed = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=30, check=True)
    assert f"'predictions': [{label}]" in printed.stdout


def test_the_lineage_names_job_code_and_data(mw: Mw) -> None:
    version = json.loads(mw.ok("model", "get", "digits:1", "--json"))
    assert version["lineage"]["job"]["name"] == "digits"
    assert re.fullmatch("sha256:[0-9a-f]{64}", version["lineage"]["code_digest"])
    assert version["lineage"]["code_digest"].removeprefix("sha256:") in version["lineage"]["code"]
    assert "s3://digits/train/" in json.dumps(version["lineage"]["inputs"])
    assert version["metrics"]["validation_accuracy"] > 0.9


def test_the_log_can_be_read_afterwards(mw: Mw) -> None:
    text = mw.ok("job", "log", "digits")
    assert text.count("wrote model.onnx") == 1
    assert mw.ok("job", "log", "digits", "-f") == text


def test_a_token_that_is_rotated_closes_the_door(mw: Mw) -> None:
    old = mw.ok("service", "token", "digits").strip()
    new = mw.ok("service", "rotate-token", "digits").strip()
    assert old != new
    call = mw("service", "call", "digits", "-d", json.dumps({"instances": [[0] * 64]}))
    assert call.returncode == 0, call.stderr
    assert "predictions" in call.stdout


def test_stop_start_and_delete(mw: Mw) -> None:
    mw.ok("service", "stop", "digits", "--wait")
    refused = mw("service", "call", "digits", "-d", "{}")
    assert refused.returncode == 1
    assert '"status":503' in refused.stdout.replace(" ", "")
    mw.ok("service", "start", "digits", "--wait")
    refused = mw("model", "delete", "digits")
    assert refused.returncode == 4, refused.stderr
    mw.ok("service", "delete", "digits")
    assert mw("service", "get", "digits").returncode == 3


def test_down_leaves_no_process(mw: Mw) -> None:
    pids = [p["pid"] for p in json.loads(mw.ok("status", "--json"))["processes"]]
    mw.ok("down")
    assert [pid for pid in pids if _lives(pid)] == []
    assert mw("job", "list").returncode == 5


def _lives(pid: int) -> bool:
    """A process that has ended and was not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
