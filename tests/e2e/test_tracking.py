"""The real MLflow server on the real platform, with the real client in real jobs."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.kernel.errors import Invalid, ModelworksError
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of
from modelworks.supervisor.state import State

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("tracking")]
_PATIENCE = 200.0  # seconds; workloads stand back behind everything else that the machine does

# Two attempts: the first fails after it has logged; whoever waits is let on by a file in the volume.
TWICE = """
import os, sys, pathlib, time
import mlflow
attempt = int(os.environ["MW_ATTEMPT"])
mlflow.set_experiment("of-the-script")
with mlflow.start_run() as run:
    mlflow.log_param("lr", 0.1)
    mlflow.log_metric("loss", 1.0 / attempt, step=attempt)
    mlflow.log_text("hello", f"note{attempt}.txt")
    mlflow.flush_async_logging()
    if attempt == 1:
        os._exit(3)
    print("RUN", run.info.run_id, flush=True)
    marks = pathlib.Path("/mnt/marks")
    while not (marks / "go").exists():
        time.sleep(0.05)
    mlflow.log_metric("late", 7.0)
print("TOKEN", os.environ["MLFLOW_TRACKING_TOKEN"])
"""
AUTOLOG = """
import mlflow
from sklearn.linear_model import LogisticRegression
mlflow.sklearn.autolog(log_models=False)
LogisticRegression(C=0.5).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
"""

# Trainer's own reports, in two attempts whose arguments differ: MLflow refuses parameters that change.
TRAINER = """
import os, torch, transformers
attempt = int(os.environ["MW_ATTEMPT"])
class Rows:
    def __len__(self): return 8
    def __getitem__(self, index): return {"x": torch.ones(4) * index, "labels": torch.tensor(index % 2)}
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
    def forward(self, x, labels):
        return {"loss": torch.nn.functional.cross_entropy(self.layer(x), labels)}
arguments = transformers.TrainingArguments(
    "trainer", max_steps=4 * attempt, logging_steps=1, per_device_train_batch_size=2, save_strategy="no",
    use_cpu=True, disable_tqdm=True, report_to="mlflow",
)
transformers.Trainer(Model(), arguments, train_dataset=Rows()).train()
raise SystemExit(3 if attempt == 1 else 0)
"""


@pytest.fixture(scope="module")
def door(mw: Mw) -> Iterator[httpx.Client]:
    known = json.loads(mw.home.client.read_text())
    headers = {"Authorization": f"Bearer {known['api_key']}"}
    with httpx.Client(base_url=known["url"], headers=headers, timeout=120.0) as one:
        yield one


def submit(mw: Mw, name: str, program: str, **spec: Any) -> None:
    command = ["python", "-c", textwrap.dedent(program)]
    shape = {"resources": {"cpu": "500m", "memory": "1Gi"}}
    document = {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"command": command, **shape, **spec}}
    mw.ok("job", "submit", "-f", "-", stdin=yaml.safe_dump(document))


def run_of(door: httpx.Client, uid: str) -> dict[str, Any]:
    answer = door.get("/mlflow/api/2.0/mlflow/runs/get", params={"run_id": uid})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["run"])


def kill(mw: Mw, name: str) -> None:
    identity = State.load(mw.home).processes[name].identity
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)


def log(client: Client, name: str, attempt: int) -> str:
    """Empty before there is such an attempt."""
    try:
        return b"".join(client.job_log(name, attempt=attempt)).decode()
    except Invalid:
        return ""


def ended(client: Client, name: str) -> bool:
    try:
        return phase_of(client.get("TrainingJob", name)) in ("Succeeded", "Failed", "Cancelled")
    except ModelworksError:  # the controller or its database was killed just now
        return False


def test_one_run_for_both_attempts_while_controller_and_database_come_back(
    mw: Mw, client: Client, door: httpx.Client
) -> None:
    assert "on demand" in mw.ok("status")
    mw.ok("volume", "create", "marks")
    submit(mw, "twice", TWICE, retries=2, volumes=[{"name": "marks", "mount_path": "/mnt/marks"}])
    poll(lambda: "RUN " in log(client, "twice", 2), timeout=_PATIENCE)
    kill(mw, "controller")
    kill(mw, "postgres")
    (found,) = mw.home.volumes.iterdir()
    (found / "go").touch()
    poll(lambda: ended(client, "twice"), timeout=_PATIENCE)
    document = client.get("TrainingJob", "twice")
    uid = document["metadata"]["uid"]
    assert document["status"]["phase"] == "Succeeded", document["status"]
    run = run_of(door, uid)
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    metrics = {one["key"]: one["value"] for one in run["data"]["metrics"]}
    assert run["info"]["status"] == "FINISHED"
    assert (tags["modelworks.job_uid"], tags["modelworks.attempt"]) == (uid, "2")
    assert metrics == {"loss": 0.5, "late": 7.0}
    experiment = door.get(
        "/mlflow/api/2.0/mlflow/experiments/get", params={"experiment_id": run["info"]["experiment_id"]}
    )
    assert experiment.json()["experiment"]["name"] == "of-the-script"
    for note in ("note1.txt", "note2.txt"):
        assert door.get("/mlflow/get-artifact", params={"run_id": uid, "path": note}).text == "hello"
    # With the job its token ends; what was looked up is believed for three seconds.
    token = log(client, "twice", 2).split("TOKEN ")[1].split()[0]
    headers = {"Authorization": f"Bearer {token}"}

    def refused() -> bool:
        answer = door.get("/mlflow/api/2.0/mlflow/runs/get", params={"run_id": uid}, headers=headers)
        return answer.status_code == 401

    poll(refused)


def test_autologging_just_works(mw: Mw, client: Client, door: httpx.Client) -> None:
    submit(mw, "auto", AUTOLOG, experiment="digits")
    mw.ok("job", "wait", "auto")
    run = run_of(door, client.get("TrainingJob", "auto")["metadata"]["uid"])
    assert {one["key"]: one["value"] for one in run["data"]["params"]}["C"] == "0.5"
    assert run["data"]["metrics"]


def test_the_trainer_of_hugging_face_reports_to_the_run_of_its_job(mw: Mw, client: Client, door: httpx.Client) -> None:
    for needed in ("torch", "transformers", "accelerate"):
        pytest.importorskip(needed)
    submit(mw, "trainer", TRAINER, resources={"cpu": 1, "memory": "2Gi"}, retries=1)
    mw.ok("job", "wait", "trainer")
    uid = client.get("TrainingJob", "trainer")["metadata"]["uid"]
    run = run_of(door, uid)
    assert run["info"]["status"] == "FINISHED"
    assert {one["key"]: one["value"] for one in run["data"]["params"]}["learning_rate"] == "5e-05"
    assert {"loss", "grad_norm", "train_loss"} <= {one["key"] for one in run["data"]["metrics"]}
    place, asked = "/mlflow/api/2.0/mlflow/metrics/get-history", {"run_id": uid, "metric_key": "loss"}
    history = door.get(place, params=asked).json()["metrics"]
    assert [one["step"] for one in sorted(history, key=lambda one: one["timestamp"])] == [*range(1, 5), *range(1, 9)]


def test_jobs_are_compared_by_what_mlflow_holds_of_them(mw: Mw, tmp_path: Path) -> None:
    found = json.loads(mw.ok("job", "compare", "twice", "auto", "--json"))["items"]
    assert found[0]["hyperparameters"]["lr"] == "0.1"
    assert found[0]["values"]["late"] == 7.0
    assert found[1]["hyperparameters"]["C"] == "0.5"
    picture = tmp_path / "loss.png"
    mw.ok("job", "compare", "twice", "auto", "--plot", str(picture), "--name", "loss")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_workspaces_are_kept_apart_and_nothing_passes_without_a_key(mw: Mw, door: httpx.Client) -> None:
    key = json.loads(mw.ok("key", "create", "theirs", "--only-workspace", "theirs", "--json"))["key"]
    theirs = {"Authorization": f"Bearer {key}"}
    found = door.post("/mlflow/api/2.0/mlflow/experiments/search", json={"max_results": 100}, headers=theirs)
    assert [one["name"] for one in found.json().get("experiments", [])] in ([], ["Default"])
    other = theirs | {"X-MLFLOW-WORKSPACE": "default"}
    assert (
        door.get("/mlflow/api/2.0/mlflow/experiments/get", params={"experiment_id": 0}, headers=other).status_code
        == 403
    )
    listed = door.get("/mlflow/ajax-api/3.0/mlflow/workspaces", headers=theirs).json()
    assert listed == {"workspaces": [{"name": "theirs"}]}
    anybody = httpx.get(f"{door.base_url}/mlflow/", headers={})
    assert anybody.status_code == 401
    assert "Basic" in anybody.headers["www-authenticate"]
    assert httpx.get(f"{door.base_url}/mlflow/", auth=("any", key)).text.startswith("<!doctype html>")


def test_a_place_of_artifacts_elsewhere_is_refused(door: httpx.Client) -> None:
    create = "/mlflow/api/2.0/mlflow/experiments/create"
    assert door.post(create, json={"name": "evil", "artifact_location": "file:///etc"}).status_code == 403
    assert door.post(create, json={"name": "evil"}, headers={"Origin": "http://evil"}).status_code == 403
