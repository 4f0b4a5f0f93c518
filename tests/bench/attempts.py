"""How soon a gang is stopped of which one rank died, and how soon a preempted job works again."""

from __future__ import annotations

import textwrap
import time
from datetime import datetime
from typing import Any

import httpx
from tests.bench.harness import Entry, Figure, Unmeasurable

FAIL_TO_STOPPED = Figure("training.fail_to_stopped_s", "s", 3, "lower")
RESUME_EXTRA = Figure("training.resume_extra_s", "s", 5, "lower")
_GANGS, _RANKS, _RESUMES = 50, 3, 10
_CHECKPOINT = 32 << 20

# The last rank tells when it dies, once the others are at work.
_DIES = """
import os, socket, time
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
port = int(os.environ["MASTER_PORT"]) + 1000
if rank < world - 1:
    with socket.create_server(("127.0.0.1", port + rank)) as server:
        server.accept()
        time.sleep(600)
for other in range(world - 1):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port + other)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
print("died", time.time(), flush=True)
os._exit(3)
"""
_RESUMES_FROM = f"""
import os, pathlib, signal, sys, time
print("begun", time.time(), flush=True)
folder = pathlib.Path(os.environ["MW_CHECKPOINT_DIR"])
if os.environ["MW_ATTEMPT"] == "2":
    assert (folder / "state").stat().st_size == {_CHECKPOINT}
    sys.exit(0)
def stop(*_):
    (folder / "state").write_bytes(os.urandom({_CHECKPOINT}))
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
time.sleep(600)
"""


def measure(api: httpx.Client) -> list[Entry]:
    """Both figures, on a platform that runs."""
    stopped = sorted(_fail_to_stopped(api, f"dies-{number}") for number in range(_GANGS))
    resumed = [_resume(api, f"resumes-{number}") for number in range(_RESUMES)]
    p99 = stopped[min(len(stopped) - 1, int(0.99 * len(stopped)))]
    median = stopped[len(stopped) // 2]
    return [
        FAIL_TO_STOPPED.entry(p99, gangs=_GANGS, ranks=_RANKS, p50=round(median, 4)),
        RESUME_EXTRA.medians(resumed, checkpoint_bytes=_CHECKPOINT),
    ]


def _fail_to_stopped(api: httpx.Client, name: str) -> float:
    """From a rank's last instruction to the end of the last process of its peers, by the machine's clock."""
    _submit(api, name, _DIES, replicas=_RANKS, grace_period="30s")
    status = _ended(api, name)
    died = _said(api, name, "died", attempt=1, replica=_RANKS - 1)
    return max(_seconds(line["exited_at"]) for line in status["replicas"]) - died


def _resume(api: httpx.Client, name: str) -> float:
    """From the end of the preempted attempt to the first line of the next, without the script's own start."""
    _submit(api, name, _RESUMES_FROM, notice="60s")
    _said(api, name, "up", attempt=1)
    own = _said(api, name, "begun", attempt=1) - _seconds(_status(api, name)["replicas"][0]["started_at"])
    answer = api.post(f"/jobs/{name}/preempt", json={})
    if answer.status_code != 202:
        raise Unmeasurable(f"the job could not be preempted: {answer.text[:300]}")
    status = _ended(api, name)
    if status["phase"] != "Succeeded":
        raise Unmeasurable(f"the job {name} did not resume: {status['message']}")
    return _said(api, name, "begun", attempt=2) - _seconds(status["attempts"][0]["ended"]) - own


def _submit(api: httpx.Client, name: str, program: str, **spec: Any) -> None:
    resources = {"cpu": "100m", "memory": "256Mi"}
    whole = {"command": ["python", "-c", textwrap.dedent(program)], "resources": resources, **spec}
    manifest = {"apiVersion": "modelworks/v1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": whole}
    answer = api.post("/apply", json={"manifests": [manifest], "dry_run": False})
    if answer.status_code != 200:
        raise Unmeasurable(f"the job was refused: {answer.text[:300]}")


def _status(api: httpx.Client, name: str) -> dict[str, Any]:
    found = api.get(f"/resources/TrainingJob/{name}")
    return dict(found.raise_for_status().json().get("status", {}))


def _ended(api: httpx.Client, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = _status(api, name)
        if status.get("phase") in ("Succeeded", "Failed", "Cancelled"):
            return status
        time.sleep(0.05)
    raise Unmeasurable(f"the job {name} did not end within 120 s")


def _said(api: httpx.Client, name: str, word: str, *, attempt: int, replica: int = 0) -> float:
    """Wait for a line that begins with the word; the number behind it, if there is one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        text = api.get(f"/jobs/{name}/log", params={"attempt": attempt, "replica": replica}).text
        for words in (line.split() for line in text.splitlines()):
            if words[:1] == [word]:
                return float(words[1]) if len(words) > 1 else 0.0
        time.sleep(0.02)
    raise Unmeasurable(f"job {name} did not say {word!r} within 120 s")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
