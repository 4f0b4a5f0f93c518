"""A job's manifest run here, without a platform."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelworks.kernel.errors import Invalid, WorkloadFailed
from modelworks.products.training.local import run
from modelworks.sdk import local

TRAIN = """
import json, os, sys
from modelworks import train
rows = (train.paths.input("data") / "rows.txt").read_text().split()
assert open("/mnt/data/rows.txt".replace("/mnt/data", os.environ["MW_INPUT_DATA"])).read().split() == rows
(train.paths.output() / "model.txt").write_text(f"{len(rows)} rows, {train.hyperparameters()}, {sys.argv[1]}")
assert not train.should_stop()
train.report({"accuracy": 0.5})
train.report({"loss": 1})
"""


def job(**spec: Any) -> dict[str, Any]:
    return {"kind": "TrainingJob", "metadata": {"name": "digits"}, "spec": spec}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.txt").write_text("a b c")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text(TRAIN)
    return tmp_path


def test_a_job_with_code_inputs_and_output(folder: Path) -> None:
    manifest = job(
        command="python train.py --data=/mnt/data",
        code=str(folder / "code"),
        inputs={"data": str(folder / "data")},
        hyperparameters={"epochs": 3, "name": "x"},
    )
    assert run(manifest, folder / "run") == 0
    written = (folder / "run/output/model.txt").read_text()
    assert written == f"3 rows, {{'epochs': 3, 'name': 'x'}}, --data={folder}/data"
    assert json.loads((folder / "run/output/metrics.json").read_text()) == {"accuracy": 0.5, "loss": 1.0}


def test_a_folder_is_also_there_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "Qwen/model").mkdir(parents=True)
    (tmp_path / "Qwen/config.json").write_text("{}")
    command = "ls /mnt/model/Qwen/config.json && test -d /ml/input/data/model/model"
    assert run(job(command=command, inputs={"model": str(tmp_path / "Qwen")}), tmp_path / "run") == 0


def test_event_files_have_a_folder(tmp_path: Path) -> None:
    command = 'test "$PAI_OUTPUT_TENSORBOARD" = "$MW_TENSORBOARD_DIR" && echo x > /ml/output/tensorboard/events'
    assert run(job(command=command), tmp_path) == 0
    assert (tmp_path / "tensorboard/events").exists()


def test_the_exit_code_is_the_commands(tmp_path: Path) -> None:
    assert run(job(command="exit 7"), tmp_path) == 7
    assert run(job(command="kill -KILL $$"), tmp_path) == 137


def test_a_failed_rank_ends_the_others(tmp_path: Path) -> None:
    command = "if [ $RANK = 1 ]; then exit 3; fi; exec sleep 60"
    assert run(job(command=command, replicas=2), tmp_path) == 3


def test_what_lasts_is_ended_with_those_that_work(tmp_path: Path) -> None:
    roles = [
        {"name": "worker", "replicas": 2, "command": "echo done > /mnt/output/done"},
        {"name": "ps", "command": "exec sleep 600"},
    ]
    manifest = job(command="true", framework="tensorflow", roles=roles)
    assert run(manifest, tmp_path) == 0
    assert (tmp_path / "rank1/output/done").exists()


def test_ranks_share_a_world(tmp_path: Path) -> None:
    manifest = job(command="echo $RANK $WORLD_SIZE > /mnt/output/rank", replicas=2, output=str(tmp_path / "out"))
    assert run(manifest, tmp_path / "run") == 0
    assert (tmp_path / "out/rank").read_text() == "0 2\n"
    assert (tmp_path / "out.rank1/rank").read_text() == "1 2\n"


def test_the_entry_point(folder: Path) -> None:
    manifest = folder / "job.yaml"
    manifest.write_text(json.dumps(job(command="echo $(RANK) of $(WORLD_SIZE)")))
    done = subprocess.run(
        [sys.executable, "-m", "modelworks.main", "run-local", str(manifest), "--directory", str(folder / "run")],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"0 of 1\n"), done.stderr


def test_a_manifest_that_cannot_run_is_not_called_a_failed_job(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Invalid, match="was not run"):
        local.run(job(command="x", inputs={"data": "s3://digits/"}), output=str(folder / "run"))
    told = capfd.readouterr().err
    assert "spec.inputs.data" in told
    with pytest.raises(WorkloadFailed, match="exit code 7"):
        local.run(job(command="exit 7"), output=str(folder / "run2"))


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({"command": "x", "inputs": {"data": "s3://digits/"}}, "spec.inputs.data", "object store"),
        ({"command": "x", "inputs": {"data": "/no/such/folder"}}, "spec.inputs.data", "there is no"),
        ({"command": ["/no/such/program"]}, "spec.command", "cannot start"),
        ({"command": "x", "replicas": 0}, "spec.replicas", "greater than"),
    ],
)
def test_what_cannot_run_here(tmp_path: Path, spec: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        run(job(**spec), tmp_path)
    assert caught.value.fields[0].path == path
    assert words in caught.value.fields[0].message
