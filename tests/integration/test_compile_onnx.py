"""ONNX files through the compiler's own process: FP32, INT8, with and without data, fixed batches, what is no graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

pytest.importorskip("sympy")
pytestmark = pytest.mark.timeout(300)
SIDE, CLASSES = 12, 5


def network(path: Path, batch: int | str = "n") -> Path:
    """Two convolutions, one of them depthwise, and a linear layer, with weights of a fixed seed."""
    random = np.random.default_rng(0)
    path.mkdir(exist_ok=True)
    sizes: dict[str, tuple[int, ...]] = {
        "w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 1, 3, 3), "b2": (16,), "w3": (16, CLASSES), "b3": (CLASSES,),
    }  # fmt: skip
    weights = [
        numpy_helper.from_array(random.normal(0, 0.4, size).astype(np.float32), name) for name, size in sizes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], group=16, strides=[2, 2], name="depthwise"),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"], name="last"),
    ]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])
    graph = helper.make_graph(nodes, "net", [given], [scores], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path / "net.onnx"))
    return path


def images(count: int) -> np.ndarray[Any, Any]:
    """Smooth pictures: neighbours resemble each other, as in photographs."""
    coarse = np.random.default_rng(1).standard_normal((count, 3, 4, 4)).astype(np.float32)
    return coarse.repeat(3, axis=2).repeat(3, axis=3)


def compiled(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelworks.compile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "compile.json").read_text())
    return found


def test_int8_of_a_convolutional_network_keeps_its_classes(tmp_path: Path) -> None:
    model, out = network(tmp_path / "m"), tmp_path / "out"
    rows = images(600)
    session = onnxruntime.InferenceSession(str(model / "net.onnx"), providers=["CPUExecutionProvider"])
    truth = session.run(None, {"image": rows})[0].argmax(1)
    truth[::10] = 0  # the original is not always right
    np.savez(tmp_path / "rows.npz", image=rows, labels=truth)
    done = compiled(str(model), str(out), "--precision", "int8", "--calibrate", str(tmp_path / "rows.npz"))
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert report["precision"] == "int8"
    assert report["baseline"] == "onnxruntime fp32"  # ONNX has no eager model beside it
    assert report["scores"]["original"]["metric"] == "accuracy"
    for name, near in report["closeness"].items():
        assert near["top1"] > 0.97, (name, near)
        assert near["kl"] < 0.001, (name, near)
    assert "the same best class as the original" in (out / "report.md").read_text()
    types = {one.data_type for one in onnx.load(str(out / "model.onnx")).graph.initializer}
    assert TensorProto.INT8 in types
    fresh = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        assert fresh.run(None, {"image": rows[:count]})[0].shape == (count, CLASSES)
    with Image.open(out / "report.png") as drawn:
        assert len(drawn.convert("RGB").getcolors(1 << 20) or ()) > 10, "it shows nothing"


def test_a_fixed_batch_stays_and_is_measured_alone(tmp_path: Path) -> None:
    model, out = network(tmp_path / "m", 3), tmp_path / "out"
    np.save(tmp_path / "rows.npy", images(120))
    done = compiled(
        str(model / "net.onnx"), str(out), "--precision", "int8", "--calibrate", str(tmp_path / "rows.npy"),
        "--to", "onnx", "--force",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert {row["batch"] for row in report["rows"]} == {3}
    assert report["scores"]["original"] == {"metric": "agreement", "value": 1.0, "samples": 60}
    assert any("exactly 3" in note for note in report["notes"])


def test_without_data_it_is_measured_on_noise_and_said(tmp_path: Path) -> None:
    model, out = network(tmp_path / "m"), tmp_path / "out"
    done = compiled(str(model), str(out), "--max-batch", "2")
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert (report["precision"], {row["batch"] for row in report["rows"]}) == ("fp32", {1, 2})
    assert any("measured on noise" in note for note in report["notes"])
    if report["engine"] == "openvino":
        assert any("openvino measured faster" in note for note in report["notes"])


def test_what_is_no_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.onnx").write_bytes(b"rubbish")
    done = compiled(str(tmp_path / "m"), str(tmp_path / "out"))
    assert done.returncode == 1
    assert "model.onnx is not a valid ONNX graph" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
