"""Compiling models on the real platform: scikit-learn to ONNX and INT8, measured, registered and served."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from tests.cli_platform import Mw

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("compile")]
WORKLOAD_FAILED = 6


@pytest.fixture(scope="module")
def folder(mw: Mw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two registered models of digits, `mlp:1` and `linear:1`, and held-out rows with their labels."""
    path = tmp_path_factory.mktemp("digits")
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    models = {
        "mlp": MLPClassifier((64,), max_iter=80, random_state=0).fit(x[:900], y[:900]),
        "linear": LogisticRegression(max_iter=300).fit(x[:900], y[:900]),
    }
    for name, model in models.items():
        (path / name).mkdir()
        joblib.dump(model, path / name / "model.joblib")
        mw.ok("model", "register", name, "--uri", str(path / name))
    np.savez(path / "heldout.npz", x=x[900:], labels=y[900:])
    np.save(path / "wrong.npy", x[:, :63])
    return path


def test_a_model_becomes_int8_with_a_report_and_is_served(mw: Mw, folder: Path) -> None:
    told = mw(
        "model", "compile", "mlp:1", "--precision", "int8", "--calibrate", str(folder / "heldout.npz"), "--json"
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    report, version = answer["report"], answer["version"]
    assert (version["model"], version["version"], report["precision"]) == ("mlp", 2, "int8")
    assert {row["variant"] for row in report["rows"]} >= {"eager", "onnxruntime fp32", "onnxruntime int8"}
    assert {row["batch"] for row in report["rows"]} == {1, 2, 4, 8}
    scores = report["scores"]
    assert scores["eager"]["metric"] == "accuracy"
    assert scores["eager"]["value"] - scores[report["chosen"]]["value"] <= 0.005
    assert {file["path"] for file in version["files"]} >= {"model.onnx", "compile.json", "report.md", "report.png"}
    assert version["lineage"]["hyperparameters"]["from"] == "mlp:1"
    assert version["lineage"]["job"]["name"] == answer["job"]
    assert version["metrics"]["accuracy"] == pytest.approx(scores[report["chosen"]]["value"])
    assert "| variant | batch |" in mw.ok("job", "log", answer["job"])

    service = {
        "kind": "Service",
        "metadata": {"name": "mlp"},
        "spec": {"processor": "onnx", "model": "mlp:2", "instance_type": "local.tiny"},
    }
    (folder / "service.yaml").write_text(yaml.safe_dump(service))
    mw.ok("service", "create", "-f", str(folder / "service.yaml"), "--wait")
    held = np.load(folder / "heldout.npz")
    body = json.dumps({"instances": held["x"][:50].tolist()})
    predicted = json.loads(mw.ok("service", "call", "mlp", "-d", body))["predictions"]
    assert np.mean(np.array(predicted) == held["labels"][:50]) > 0.8
    mw.ok("service", "delete", "mlp")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("linear:1", "--precision", "int8", "--calibrate", "heldout.npz"), WORKLOAD_FAILED, "nothing to quantise"),
        (
            ("mlp:1", "--precision", "int8", "--calibrate", "wrong.npy"),
            WORKLOAD_FAILED,
            "takes float32 of shape [any, 64]",
        ),
        (("mlp:1", "--precision", "int8"), 2, "INT8 needs a sample"),
        (("mlp:1", "--calibrate", "nowhere.npz"), 2, "there is no file or folder"),
        (("missing:1",), 3, "missing"),
    ],
    ids=["nothing-to-quantise", "wrong-shape", "no-calibration", "no-file", "no-model"],
)
def test_what_cannot_be_compiled_says_why(
    mw: Mw, folder: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    versions = mw.ok("model", "get", "mlp", "--json"), mw.ok("model", "get", "linear", "--json")
    done = mw("model", "compile", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert (mw.ok("model", "get", "mlp", "--json"), mw.ok("model", "get", "linear", "--json")) == versions


def test_auto_keeps_fp32_where_int8_is_nothing(mw: Mw, folder: Path) -> None:
    told = mw.ok(
        "model", "compile", "linear:1", "--precision", "auto", "--calibrate", str(folder / "heldout.npz"),
        "--name", "linear-fast", "--json",
    )  # fmt: skip
    answer = json.loads(told)
    assert (answer["version"]["model"], answer["version"]["version"]) == ("linear-fast", 1)
    assert answer["report"]["precision"] == "fp32"
    assert any("nothing to quantise" in note for note in answer["report"]["notes"])
