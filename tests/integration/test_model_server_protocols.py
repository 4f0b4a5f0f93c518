"""What goes in and out of the model server: arrays, images, compressed bodies, V2 with its own client."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.gateway_lab import TOKEN, document, lab
from tests.model_server import Server, refused, serving

from modelworks.gateway.table import Table

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def save(directory: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any] = []) -> Path:  # noqa: B006
    graph = helper.make_graph(nodes, "model", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    return directory


def tensor(name: str, kind: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Outputs: a + b of floats, a copy of texts, and a of half the precision."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Identity", ["text"], ["said"]),
        helper.make_node("Cast", ["a"], ["half"], to=onnx.TensorProto.FLOAT16),
    ]
    inputs = [tensor("a", "FLOAT", ["n", 3]), tensor("b", "FLOAT", ["n", 3]), tensor("text", "STRING", ["n"])]
    outputs = [tensor("sum", "FLOAT", ["n", 3]), tensor("said", "STRING", ["n"]), tensor("half", "FLOAT16", ["n", 3])]
    model = save(tmp_path_factory.mktemp("several"), nodes, inputs, outputs)
    with serving("--processor", "onnx", "--model", str(model), "--max-batch-size", "4", tcp=True) as server:
        yield server


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_the_unmodified_client_of_the_protocol(several: Server, binary: bool, compression: str | None) -> None:
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(several.address) as client:
        a, b = np.arange(18, dtype="float32").reshape(6, 3), np.ones((6, 3), dtype="float32")
        text = np.array(["eins", "zwei", "drei", "vier", "fünf", ""], dtype=object)
        inputs = [
            http.InferInput("a", [6, 3], "FP32"),
            http.InferInput("b", [6, 3], "FP32"),
            http.InferInput("text", [6], "BYTES"),
        ]
        for item, data in zip(inputs, (a, b, text), strict=True):
            item.set_data_from_numpy(data, binary_data=binary)
        outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("sum", "said")]
        found = client.infer("any", inputs, request_id="7", outputs=outputs, request_compression_algorithm=compression)
        assert np.array_equal(found.as_numpy("sum"), a + b)
        said = [item.decode() if isinstance(item, bytes) else item for item in found.as_numpy("said")]
        assert said == text.tolist()
        assert found.as_numpy("half") is None
        assert (found.get_response()["id"], found.get_response()["model_name"]) == ("7", "any")
        # All outputs, binary unless asked otherwise.
        assert np.array_equal(client.infer("any", inputs).as_numpy("half"), a.astype("float16"))


async def _through_the_gateway(folder: Path, address: str, ask: Callable[[str], None]) -> None:
    async with lab(folder) as one:
        one.gateway.apply(Table.parse([document(address)]))
        await asyncio.to_thread(ask, f"127.0.0.1:{one.port}/api/predict/digits")


def test_the_unmodified_client_through_the_gateway(tmp_path: Path) -> None:
    http = pytest.importorskip("tritonclient.http")
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    save(tmp_path, nodes, [tensor("x", "FLOAT", ["n", 2])], [tensor("y", "FLOAT", ["n", 2])])

    def ask(url: str) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with http.InferenceServerClient(url) as client:
            assert client.is_model_ready("any", headers=headers)
            item = http.InferInput("x", [3, 2], "FP32")
            item.set_data_from_numpy(np.ones((3, 2), dtype="float32"))
            for packed in (None, "gzip"):
                found = client.infer("any", [item], headers=headers, request_compression_algorithm=packed)
                assert found.as_numpy("y").tolist() == [[2, 2]] * 3

    with serving("--processor", "onnx", "--model", str(tmp_path)) as server, tempfile.TemporaryDirectory() as folder:
        asyncio.run(_through_the_gateway(Path(folder), server.address, ask))


def test_the_client_sees_the_server(several: Server) -> None:
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(several.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("any")
        assert client.is_model_ready("any", "1")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        described = client.get_model_metadata("any")
        assert [item["datatype"] for item in described["inputs"]] == ["FP32", "FP32", "BYTES"]
        assert client.get_model_config("any")["max_batch_size"] == 4
        assert client.get_model_repository_index()[0]["state"] == "READY"
        item = http.InferInput("a", [1, 3], "FP32")
        item.set_data_from_numpy(np.zeros((1, 3), dtype="float32"))
        with pytest.raises(Exception, match="the input 'b' is missing"):
            client.infer("any", [item])
        with pytest.raises(Exception, match="is not offered here"):
            client.load_model("other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [2, 3]}, "takes 24"),
        ({"shape": None}, "needs a shape"),
        ({"shape": [-1, 3]}, "list of sizes"),
        ({"datatype": "BF16"}, "'BF16' is not one of"),
        ({"parameters": {"binary_data_size": 13}}, "12 bytes follow the JSON"),
        ({"parameters": {"binary_data_size": 8}}, "takes 12"),
        ({"parameters": {"binary_data_size": "x"}}, "binary_data_size is 'x'"),
        ({"datatype": "BYTES", "shape": [1]}, "are not the 1 elements"),
        ({"name": None}, "'name' of its own"),
    ],
)
def test_wrong_binary_tensors(several: Server, change: dict[str, Any], words: str) -> None:
    item = {"name": "a", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}} | change
    header = json.dumps({"inputs": [item]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    answer = several.client.post("/v2/models/m/infer", content=header + b"\xff" * 12, headers=headers)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert answer.json()["detail"] == answer.json()["error"]


def test_a_wrong_length_of_the_json_and_an_unknown_output(several: Server) -> None:
    headers = {"Inference-Header-Content-Length": "99"}
    answer = several.client.post("/v2/models/m/infer", content=b"{}", headers=headers)
    assert "the body has 2 bytes" in answer.json()["error"]
    data = [1.0, 2.0, 3.0]
    given: dict[str, Any] = {
        "inputs": [
            {"name": "a", "shape": [1, 3], "datatype": "FP32", "data": data},
            {"name": "b", "shape": [1, 3], "datatype": "FP32", "data": data},
            {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]},
        ],
        "outputs": [{"name": "none"}],
    }
    answer = several.client.post("/v2/models/m/infer", json=given)
    assert "there is no output 'none'; the model has 'sum', 'said', 'half'" in answer.json()["error"]
    given["outputs"] = [{"name": "half"}]
    answer = several.client.post("/v2/models/m/infer", json=given).json()
    assert answer["outputs"] == [{"name": "half", "datatype": "FP16", "shape": [1, 3], "data": data}]


@pytest.fixture(scope="module")
def doubles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    model = save(
        tmp_path_factory.mktemp("doubles"), nodes, [tensor("x", "FLOAT", ["n", 2])], [tensor("y", "FLOAT", ["n", 2])]
    )
    with serving("--processor", "onnx", "--model", str(model), MW_MAX_BODY="10000") as server:
        yield server


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, 2], [3, 4]], dtype="float32"),
        np.asfortranarray(np.array([[1, 2], [3, 4]], dtype="float32")),
        np.array([[1, 2], [3, 4]], dtype=">f4"),
        np.array([[1, 2], [3, 4]], dtype="int64"),
    ],
    ids=["plain", "fortran", "big-endian", "integers"],
)
def test_arrays_in_and_out(doubles: Server, array: Any) -> None:
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    answer = doubles.client.post("/", content=npy(array), headers=headers)
    assert answer.headers["content-type"] == "application/x-npy"
    found = np.load(io.BytesIO(answer.content))
    assert (found.dtype, found.tolist()) == (np.float32, [[2, 4], [6, 8]])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (npy(np.array([[1.0, 2.0]]))[:-1], "bytes of data"),
        (npy(np.array([[1.0, 2.0]])) + b"x", "bytes of data"),
        (npy(np.array([[None, 2.0]])), "pickled objects"),
        (b"PK\x03\x04", "NumPy's format"),
    ],
)
def test_wrong_arrays(doubles: Server, body: bytes, words: str) -> None:
    answer = doubles.client.post("/", content=body, headers={"Content-Type": "application/x-npy"})
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


def test_compressed_bodies(doubles: Server) -> None:
    body = b"[[1, 2]]"
    for coding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        headers = {"Content-Encoding": coding}
        assert doubles.client.post("/", content=packed, headers=headers).json() == {"predictions": [[2.0, 4.0]]}
    bomb = doubles.client.post(
        "/", content=gzip.compress(b" " * 10_000_000)[:9_000], headers={"Content-Encoding": "gzip"}
    )
    assert bomb.status_code == 413
    short = doubles.client.post("/", content=gzip.compress(body)[:-4], headers={"Content-Encoding": "gzip"})
    assert (short.status_code, "ends too early" in short.json()["detail"]) == (400, True)
    assert doubles.client.post("/", content=body, headers={"Content-Encoding": "gzip"}).status_code == 400
    assert doubles.client.post("/", content=body, headers={"Content-Encoding": "br"}).status_code == 415


def picture(height: int, width: int, kind: str) -> bytes:
    image = pytest.importorskip("PIL.Image")
    body = io.BytesIO()
    pixels = np.zeros((height, width, 3), dtype="uint8")
    pixels[:, :, 0] = 255
    image.fromarray(pixels).save(body, kind)
    return body.getvalue()


def test_images_as_pixels_and_never_resized_in_silence(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = save(tmp_path, nodes, [tensor("x", "UINT8", ["n", 2, 4, 3])], [tensor("y", "UINT8", ["n", 2, 4, 3])])
    with serving("--processor", "onnx", "--model", str(model)) as server:
        answer = server.client.post("/", content=picture(2, 4, "PNG"), headers={"Content-Type": "image/png"})
        assert answer.json()["predictions"] == [[[[255, 0, 0]] * 4] * 2]
        wrong = server.client.post("/", content=picture(4, 4, "PNG"), headers={"Content-Type": "image/png"})
        assert wrong.status_code == 422
        assert "4 high and 4 wide" in wrong.json()["detail"]
        rubbish = server.client.post("/", content=b"rubbish", headers={"Content-Type": "image/jpeg"})
        assert rubbish.status_code == 400
        other = server.client.post("/", content=b"<svg/>", headers={"Content-Type": "image/svg+xml"})
        assert other.status_code == 415


def test_images_by_preprocess_json(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = save(tmp_path, nodes, [tensor("x", "FLOAT", ["n", 3, 2, 2])], [tensor("y", "FLOAT", ["n", 3, 2, 2])])
    arguments = ("--processor", "onnx", "--model", str(model))
    with serving(*arguments) as server:
        answer = server.client.post("/", content=picture(2, 2, "PNG"), headers={"Content-Type": "image/png"})
        assert answer.status_code == 422
        assert "preprocess.json" in answer.json()["detail"]
    said = {"resize": [2, 2], "scale": 1 / 255, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "color": "BGR"}
    (tmp_path / "preprocess.json").write_text(json.dumps(said))
    with serving(*arguments) as server:
        answer = server.client.post("/", content=picture(8, 6, "JPEG"), headers={"Content-Type": "image/jpeg"})
        found = np.array(answer.json()["predictions"])
        assert found.shape == (1, 3, 2, 2)
        assert np.allclose(found[0, 2], 1, atol=0.05)
        assert np.allclose(found[0, :2], -1, atol=0.05)
    (tmp_path / "preprocess.json").write_text('{"size": 3}')
    assert "preprocess.json of the model: it may hold" in refused(*arguments)


def test_a_python_class_takes_tensors(tmp_path: Path) -> None:
    (tmp_path / "processor.py").write_text(
        "class Sum:\n    def process(self, data):\n        return {'inputs': len(data['inputs'])}\n"
    )
    given: dict[str, Any] = {"inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}
    arguments = ("--processor", "python", "--entry", "processor.py:Sum")
    with serving(*arguments, cwd=tmp_path) as server:
        assert server.client.post("/v2/models/m/infer", json=given).json() == {"inputs": 1}
        headers = {"Inference-Header-Content-Length": "2"}
        assert server.client.post("/v2/models/m/infer", content=b"{}", headers=headers).status_code == 415
    (tmp_path / "processor.py").write_text(
        "class Sum:\n    def infer(self, inputs):\n        return {'sum': inputs['x'].sum()}\n"
    )
    with serving(*arguments, cwd=tmp_path) as server:
        answer = server.client.post("/v2/models/m/infer", json=given).json()
        assert answer["outputs"] == [{"name": "sum", "datatype": "INT64", "shape": [], "data": [3]}]
        given["inputs"][0] |= {"datatype": "FP32", "data": [0.5, 1]}
        answer = server.client.post("/v2/models/m/infer", json=given).json()
        assert answer["outputs"] == [{"name": "sum", "datatype": "FP32", "shape": [], "data": [1.5]}]
        given["inputs"][0] |= {"datatype": "INT8", "data": [300, 1]}
        wrong = server.client.post("/v2/models/m/infer", json=given)
        assert (wrong.status_code, wrong.json()["error"]) == (400, "input 'x': a number does not fit into INT8")


def test_an_entry_names_the_file(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    for width, name in enumerate(("a.onnx", "nets/b.onnx", "model.onnx"), 1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shape = ["n", width]
        made = save(tmp_path, nodes, [tensor("x", "FLOAT", shape)], [tensor("y", "FLOAT", shape)])
        (made / "model.onnx").rename(tmp_path / name)
    with serving("--processor", "onnx", "--model", str(tmp_path), "--entry", "nets/b.onnx") as server:
        assert server.client.get("/v2/models/m").json()["inputs"][0]["shape"] == [-1, 2]
