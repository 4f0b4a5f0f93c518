"""Load tests and profiles of real services on the real platform."""

from __future__ import annotations

import json
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests import leftovers
from tests.agents import poll
from tests.cli_platform import MW, Mw, fresh

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("stress")]
BODY = '{"x": 1}'
# One request at a time, a hundred a second at best.
PACED = """
    import threading, time

    class Paced:
        def initialize(self):
            self.lock = threading.Lock()
        def process(self, data):
            with self.lock:
                time.sleep(0.01)
            print("answered", flush=True)
            return {"ok": True}
    """


@pytest.fixture(scope="module")
def mw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mw]:
    folder = tmp_path_factory.mktemp("paced")
    (folder / "code.py").write_text(textwrap.dedent(PACED))
    spec = {
        "processor": "python", "entry": "code.py:Paced", "code": ".", "instance_type": "local.tiny",
        "concurrency": 4, "queue": {"size": 8, "timeout": "2s"}, "grace_period": "2s",
    }  # fmt: skip
    manifest = {"kind": "Service", "metadata": {"name": "paced"}, "spec": spec}
    (folder / "service.yaml").write_text(yaml.safe_dump(manifest))
    with fresh() as one:
        one.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
        yield one
        one.ok("down", "--grace", "5")
        assert leftovers.of_platform(one.home) == []


def test_steps_past_what_it_can_do_find_the_knee(mw: Mw) -> None:
    told = mw.ok("service", "stress", "paced", "--step", "10:810:400", "--duration", "2s", "-d", BODY, "--json")
    answer = json.loads(told)
    first, *_, last = answer["steps"]
    assert (first["rate"], first["sent"], first["good"], first["errors"]) == (10, 20, 20, 0)
    assert last["sent"] == last["good"] + last["limited"] + last["errors"]
    assert last["limited"] > last["good"]  # four times what it can do, and a queue of eight
    assert last["errors"] == 0
    assert answer["knee"]["rate"] == 10
    assert answer["knee"]["capacity"] < 110
    assert answer["advice"]["replicas"]


def test_a_recording_is_sent_as_it_was(mw: Mw, tmp_path: Path) -> None:
    lines = [json.dumps({"at": number / 20, "body": {"x": number}}) for number in range(20)]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines))
    answer = json.loads(mw.ok("service", "stress", "paced", "--replay", str(tmp_path / "requests.jsonl"), "--json"))
    (step,) = answer["steps"]
    assert (step["sent"], step["good"], step["duration"]) == (20, 20, 0.95)


def test_what_cannot_be_tested_is_said_before_anything_is_sent(mw: Mw) -> None:
    for arguments, code, said in (
        (("paced", "--rate", "5", "--step", "1:2:1"), 2, "one of --rate"),
        (("paced", "--step", "5:1:1"), 2, "steps go up"),
        (("paced", "--rate", "5", "-d", BODY, "-X", "PATCH"), 6, "answers this request with"),
        (("nothing", "--rate", "5"), 3, "nothing"),
    ):
        done = mw("service", "stress", *arguments)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
    mw.ok("service", "stop", "paced", "--wait")
    stopped = mw("service", "stress", "paced", "--rate", "5", "-d", BODY)
    assert (stopped.returncode, "mw service start paced" in stopped.stderr) == (4, True)
    mw.ok("service", "start", "paced", "--wait")
    assert mw("service", "resume", "paced").returncode == 4  # nothing was taken back
    assert mw("service", "tasks", "paced").returncode == 4  # it is not asynchronous


def test_ctrl_c_shows_what_was_measured(mw: Mw) -> None:
    before = answered(mw)
    command = [*MW, "service", "stress", "paced", "--rate", "20", "--duration", "300s", "-d", BODY, "--json"]
    with subprocess.Popen(
        command, env=mw.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "sending 20/s" in process.stderr.readline()
        poll(lambda: answered(mw) > before + 10)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    (step,) = json.loads(out)["steps"]
    assert step["duration"] < 300, "rates are of the time that was measured"
    assert step["sent"] == step["good"] + step["limited"] + step["errors"]
    assert "Traceback" not in err


def test_a_profile_writes_what_it_measured_and_leaves_no_copy(mw: Mw) -> None:
    before = mw.ok("service", "get", "paced", "--json")
    dry = json.loads(
        mw.ok("service", "profile", "paced", "-d", BODY, "--max-batch", "2", "--duration", "4s", "--dry-run", "--json")
    )
    assert json.loads(mw.ok("service", "get", "paced", "--json"))["spec"] == json.loads(before)["spec"]
    assert dry["written"] is False
    assert all(trial["memory"] > 0 and trial["limit"] == 512 * 1024**2 for trial in dry["trials"])
    told = mw("service", "profile", "paced", "-d", BODY, "--max-batch", "2", "--duration", "4s")
    assert told.returncode == 0, told.stderr
    assert "paced changed" in told.stdout
    spec = json.loads(mw.ok("service", "get", "paced", "--json"))["spec"]
    assert spec["batching"]["max_batch_size"] in (1, 2)
    mw.ok("service", "delete", "paced")
    assert json.loads(mw.ok("service", "list", "--json"))["items"] == []


def answered(mw: Mw) -> int:
    """How many requests the service has computed."""
    return mw.ok("service", "log", "paced").count("answered")
