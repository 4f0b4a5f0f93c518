"""Every engine with a real model in its own format, and what is said of a directory that does not fit."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.model_server import refused, serving

sklearn_datasets = pytest.importorskip("sklearn.datasets")

FEATURES, LABELS = sklearn_datasets.load_iris(return_X_y=True)
ROWS = FEATURES[[0, 60, 120]].tolist()


def classifier() -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    return LogisticRegression(max_iter=500).fit(FEATURES, LABELS)


@pytest.mark.parametrize("format", ["joblib", "pickle", "skops"])
def test_sklearn_in_every_format(tmp_path: Path, format: str) -> None:
    model = classifier()
    if format == "joblib":
        pytest.importorskip("joblib").dump(model, tmp_path / "anything.joblib")
    elif format == "pickle":
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    else:
        pytest.importorskip("skops.io").dump(model, tmp_path / "model.skops")
    with serving("--processor", "sklearn", "--model", str(tmp_path), "--max-batch-size", "2") as server:
        answer = server.client.post("/", json={"instances": ROWS}).json()
        assert answer["predictions"] == model.predict(ROWS).tolist()
        assert np.allclose(answer["outputs"]["probabilities"], model.predict_proba(ROWS))
        wrong = server.client.post("/", json=[[1, 2]])
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid")
        assert "'input' takes float64 of shape [any, 4]; [1, 2] was given" in wrong.json()["detail"]
        described = server.client.get("/v2/models/iris").json()
        assert described["platform"] == "sklearn"
        assert described["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}]
        given = {"inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP64", "data": ROWS}]}
        outputs = server.client.post("/v2/models/iris/infer", json=given).json()["outputs"]
        assert outputs[0]["data"] == model.predict(ROWS).tolist()


def test_a_model_of_texts(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import CountVectorizer  # noqa: PLC0415
    from sklearn.naive_bayes import MultinomialNB  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415

    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(["good day", "bad night"], ["yes", "no"])
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    with serving("--processor", "sklearn", "--model", str(tmp_path)) as server:
        assert server.client.post("/", json=["a good one", "a bad one"]).json()["predictions"] == ["yes", "no"]


def test_a_skops_file_with_unknown_types_is_refused(tmp_path: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer  # noqa: PLC0415

    pytest.importorskip("skops.io").dump(FunctionTransformer(np.nanstd), tmp_path / "model.skops")
    said = refused("--processor", "sklearn", "--model", str(tmp_path))
    assert "which has no method predict" in said or "does not know to be harmless" in said


def test_xgboost_and_missing_values(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(FEATURES, LABELS, feature_names=["a", "b", "c", "d"])
    booster = xgboost.train({"objective": "multi:softprob", "num_class": 3, "max_depth": 2}, data, 5)
    booster.save_model(tmp_path / "model.ubj")
    expected = booster.inplace_predict(np.array(ROWS), validate_features=False)
    with serving("--processor", "xgboost", "--model", str(tmp_path), "--max-batch-size", "8") as server:
        assert np.allclose(server.client.post("/", json=ROWS).json()["predictions"], expected, atol=1e-6)
        records = [dict(zip("dcba", row[::-1], strict=True)) for row in ROWS]
        answer = server.client.post("/", json={"instances": records})
        assert np.allclose(answer.json()["predictions"], expected, atol=1e-6)
        assert server.client.post("/", json=[[None, 1, 2, 3]]).status_code == 200
        unnamed = server.client.post("/", json=[{"a": 1}])
        assert "instance 0 must hold exactly 'a', 'b', 'c', 'd'" in unnamed.json()["detail"]


def test_lightgbm(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    booster = lightgbm.train(
        {"objective": "multiclass", "num_class": 3, "verbose": -1}, lightgbm.Dataset(FEATURES, LABELS), 5
    )
    booster.save_model(tmp_path / "model.txt")
    with serving("--processor", "lightgbm", "--model", str(tmp_path), "--max-batch-size", "8") as server:
        answer = server.client.post("/", json=ROWS).json()
        assert np.allclose(answer["predictions"], booster.predict(np.array(ROWS)))


def test_torch_exported_program(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    shapes = ({0: torch.export.Dim("batch", min=1, max=8)},)
    torch.export.save(torch.export.export(module, (torch.randn(2, 4),), dynamic_shapes=shapes), tmp_path / "model.pt2")
    expected = module(torch.tensor(ROWS * 4, dtype=torch.float32)).detach().numpy()
    with serving("--processor", "torch", "--model", str(tmp_path), "--max-batch-size", "64") as server:
        # Twelve rows, and the program takes eight: two calls.
        answer = server.client.post("/", json={"instances": ROWS * 4})
        assert np.allclose(answer.json()["predictions"], expected, atol=1e-5)
        body = io.BytesIO()
        np.save(body, np.array(ROWS, dtype="float32"))
        answer = server.client.post("/", content=body.getvalue(), headers={"content-type": "application/x-npy"})
        assert np.allclose(answer.json()["predictions"], expected[:3], atol=1e-5)
        assert server.client.get("/v2/models/m").json()["inputs"][0]["shape"] == [-1, 4]


def test_torchscript_is_told_what_to_save_instead(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pth")
    assert "model.pth is a pickled checkpoint" in refused("--processor", "torch", "--model", str(tmp_path))
    (tmp_path / "model.pth").unlink()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    said = refused("--processor", "torch", "--model", str(tmp_path))
    assert "model.pt is TorchScript; save an exported program instead: torch.export.save" in said


@pytest.mark.parametrize(
    ("processor", "file", "words"),
    [
        ("onnx", "weights.bin", "no .onnx file in the model; it holds weights.bin"),
        ("sklearn", "weights.bin", "no scikit-learn file in the model; it holds weights.bin"),
        ("sklearn", "model.skops", "cannot load the sklearn processor"),
        ("xgboost", "model.json", "model.json is not a model of XGBoost"),
        ("lightgbm", "model.txt", "model.txt is not a model of LightGBM"),
        ("torch", "model.pt2", "model.pt2 is not an exported program of PyTorch"),
        ("torch", "weights.bin", "no .pt2 file in the model; it holds weights.bin"),
        ("tensorrt", "model.onnx", "has no TensorRT provider"),
    ],
)
def test_a_wrong_directory_says_what_is_there(tmp_path: Path, processor: str, file: str, words: str) -> None:
    for package, of in (("xgboost", "xgboost"), ("lightgbm", "lightgbm"), ("torch", "torch")):
        if processor == of:
            pytest.importorskip(package)
    (tmp_path / file).write_bytes(b"rubbish")
    assert words in refused("--processor", processor, "--model", str(tmp_path))


def test_several_files_need_a_preferred_name(tmp_path: Path) -> None:
    for name in ("a.pkl", "b.pkl"):
        (tmp_path / name).write_bytes(b"x")
    said = refused("--processor", "sklearn", "--model", str(tmp_path))
    assert "several scikit-learn files in the model and none is called model.skops: a.pkl, b.pkl" in said
    assert "name the one to serve (entry), or call it model.skops" in said
    said = refused("--processor", "sklearn", "--model", str(tmp_path), "--entry", "c.pkl")
    assert "the model holds no file c.pkl; it holds a.pkl, b.pkl" in said
