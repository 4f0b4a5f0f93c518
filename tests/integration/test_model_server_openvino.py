"""Compiled models on OpenVINO, by the compiler's report, and on ONNX Runtime where that cannot be."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.model_server import refused, serving

openvino = pytest.importorskip("openvino")
# What says it: an import of this name fails there.
HIDDEN = "import sys\nsys.modules['openvino'] = None\n"


def two_inputs(folder: Path, engine: str = "openvino") -> Path:
    """`z` = (a + b) × b and, through an Identity, `y` = a + b; compiled for ``engine``."""
    shapes = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "abzy"}
    nodes = [
        helper.make_node("Add", ["a", "b"], ["s"]),
        helper.make_node("Identity", ["s"], ["y"]),
        helper.make_node("Mul", ["s", "b"], ["z"]),
    ]
    graph = helper.make_graph(nodes, "g", [shapes["a"], shapes["b"]], [shapes["z"], shapes["y"]])
    folder.mkdir(exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    (folder / "compile.json").write_text(json.dumps({"engine": engine, "precision": "fp32"}))
    return folder


@pytest.mark.parametrize(("engine", "platform"), [("openvino", "openvino_onnx"), ("onnxruntime", "onnxruntime_onnx")])
def test_the_engine_is_the_one_that_measured_faster(tmp_path: Path, engine: str, platform: str) -> None:
    model = two_inputs(tmp_path / "m", engine)
    with serving("--processor", "onnx", "--model", str(model), "--max-batch-size", "4") as server:
        described = server.client.get("/v2/models/m").json()
        assert described["platform"] == platform
        assert [one["name"] for one in described["inputs"]] == ["a", "b"]
        assert described["outputs"] == [
            {"name": "z", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "y", "datatype": "FP32", "shape": [-1, 3]},
        ]
        for rows in (1, 3, 9):
            given = {"b": [[2.0, 3, 4]] * rows, "a": [[1.0, 1, 1]] * rows}
            answer = server.client.post("/", json={"inputs": given}).json()
            assert answer == {"predictions": [[6, 12, 20]] * rows, "outputs": {"y": [[3, 4, 5]] * rows}}
        wrong = server.client.post("/", json={"inputs": {"a": [[1, 2]], "b": [[1, 2, 3]]}})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid")


def test_openvinos_own_format_and_arrays_as_they_come(tmp_path: Path) -> None:
    source = two_inputs(tmp_path / "m")
    core = openvino.Core()
    whole = core.read_model(str(source / "model.onnx"))
    (tmp_path / "ir").mkdir()
    openvino.save_model(whole, str(tmp_path / "ir" / "net.xml"))
    with serving("--processor", "onnx", "--model", str(tmp_path / "ir")) as server:
        assert server.client.get("/v2/models/net").json()["platform"] == "openvino"
        answer = server.client.post("/", json={"inputs": {"a": [[1, 1, 1]], "b": [[2, 2, 2]]}}).json()
        assert answer["predictions"] == [[6, 6, 6]]


def test_requests_at_once_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "g", [shape], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "m" / "model.onnx"))
    (tmp_path / "m" / "compile.json").write_text('{"engine": "openvino"}')
    wrong: list[str] = []
    with serving("--processor", "onnx", "--model", str(tmp_path / "m"), MW_WORKER_THREADS="4") as server:

        def call(number: int) -> None:
            for turn in range(20):
                rows = np.full((1 + turn % 3, 4), number / 10, np.float32)
                body = io.BytesIO()
                np.save(body, rows)
                headers = {"content-type": "application/x-npy", "accept": "application/x-npy"}
                answer = server.client.post("/", content=body.getvalue(), headers=headers)
                found = np.load(io.BytesIO(answer.content))
                if not np.allclose(found, np.exp(rows), atol=1e-5):
                    wrong.append(f"{number}: {found}")

        callers = [threading.Thread(target=call, args=(number,)) for number in range(6)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
    assert wrong == []


def test_without_openvino_onnx_runtime_serves_and_says_so(tmp_path: Path) -> None:
    model = two_inputs(tmp_path / "m")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDDEN)
    paths = os.pathsep.join(filter(None, (str(tmp_path / "hidden"), os.environ.get("PYTHONPATH"))))
    with serving("--processor", "onnx", "--model", str(model), PYTHONPATH=paths) as server:
        assert server.client.get("/v2/models/m").json()["platform"] == "onnxruntime_onnx"
        server.process.terminate()
        out, _ = server.process.communicate()
    assert b"compiled for OpenVINO, served by ONNX Runtime: the environment holds no openvino" in out
    (model / "model.onnx").unlink()
    (model / "model.xml").write_text("<net/>")
    (model / "model.bin").write_bytes(b"")
    said = refused("--processor", "onnx", "--model", str(model), PYTHONPATH=paths)
    assert "the environment holds no openvino; name one that does, such as openvino" in said


def test_what_openvino_cannot_load_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("rubbish")
    (tmp_path / "model.bin").write_bytes(b"")
    said = refused("--processor", "onnx", "--model", str(tmp_path))
    assert "cannot load model.xml" in said
