"""The page of checkpoints, typed as printed, and ``examples/ddp`` as a job without a platform."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.documents import DOCS, ROOT, blocks

from modelworks.train import layout

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_the_page_of_checkpoints(tmp_path: Path) -> None:
    script = ["set -e -o pipefail"]
    for block in blocks((DOCS / "training-checkpoints.md").read_text()):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
        elif block.language == "sh":
            script.append(block.text)
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, env=os.environ | {"PATH": PATH}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("step-2000\nstep-2500\nstep-3000\n")
    assert (tmp_path / "whole.txt").read_text().startswith("begins at step 0\nends with x = ")
    for name in ("part.py", "trainer.py"):
        compile((tmp_path / name).read_text(), name, "exec")


def test_two_processes_that_learn_digits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"p{n}" for n in range(64)), "label"])
        rows.writerows([*image, label] for image, label in zip(images[:400], labels[:400], strict=True))
    manifest = yaml.safe_load((ROOT / "examples" / "ddp" / "job.yaml").read_text())
    spec = manifest["spec"]
    spec |= {"code": str(ROOT / "examples" / "ddp"), "inputs": {"data": str(tmp_path / "data")}}
    spec |= {"hyperparameters": {"epochs": 6}, "checkpoint": {"every": 10, "keep": 2}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))
    command = ["mw", "job", "run", "--local", "-f", "job.yaml", "--directory", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PATH": PATH, "MW_HOME": str(tmp_path / "home")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 1 begins at step 0 of 30" in done.stdout
    assert json.loads((tmp_path / "run/rank0/output/metrics.json").read_text())["validation_accuracy"] > 0.5
    assert (tmp_path / "run/rank0/output/model.pt").exists()
    places = [place.name for place in layout.places(tmp_path / "run/rank0/checkpoints")]
    assert places == ["step-20", "step-30"]
    assert "rank-1/step-30" in [place.name for place in layout.places(tmp_path / "run/rank1/checkpoints")]
