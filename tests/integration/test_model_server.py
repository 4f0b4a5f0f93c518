"""The model server as a real process, with a real model."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.model_server import serving

PROCESSOR = """
import threading, time
class Echo:
    def initialize(self):
        self.prefix = "hello "
    def process(self, data):
        if data == {"sleep": True}:
            open("begun", "w").close()
            time.sleep(0.5)
            return {"slept": True}
        if data == {"fail": True}:
            raise ValueError("no such thing")
        if isinstance(data, bytes):
            return self.prefix.encode() + data, 201
        return {"got": data}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A logistic regression of four features and three classes."""
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.datasets import load_iris  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    features, labels = load_iris(return_X_y=True)
    fitted = LogisticRegression(max_iter=500).fit(features, labels)
    kind = skl2onnx.common.data_types.FloatTensorType([None, 4])
    exported = skl2onnx.to_onnx(fitted, initial_types=[("X", kind)], options={"zipmap": False}, target_opset=17)
    directory = tmp_path_factory.mktemp("model")
    (directory / "model.onnx").write_bytes(exported.SerializeToString())
    return directory


@contextmanager
def running(
    *arguments: str, cwd: Path | None = None, **env: str
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    with serving(*arguments, cwd=cwd, **env) as server:
        yield server.process, server.client


@pytest.fixture(scope="module")
def onnx(model: Path) -> Iterator[httpx.Client]:
    with running("--processor", "onnx", "--model", str(model)) as (_, client):
        yield client


ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.mark.parametrize(
    "body", [{"instances": [ROW, ROW]}, [ROW, ROW], {"inputs": {"X": [ROW, ROW]}}, {"X": [ROW, ROW]}]
)
def test_json_forms(onnx: httpx.Client, body: Any) -> None:
    answer = onnx.post("/", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == [0, 0]
    assert np.allclose(np.sum(answer.json()["outputs"]["probabilities"], axis=1), 1, atol=1e-4)


def test_npy_and_any_path_below(onnx: httpx.Client) -> None:
    body = io.BytesIO()
    np.save(body, np.array([ROW], dtype="float32"))
    assert onnx.post("/some/path?x=1", content=body.getvalue()).json()["predictions"] == [0]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "body is empty"),
        (b"{", 400, "not JSON"),
        (b'{"instances": [[1, 2]]}', 422, "'X' takes float32 of shape [any, 4]; [1, 2] was given"),
        (b'{"instances": [1, 2, 3, 4]}', 422, "[4] was given"),
        (b'{"instances": [[1,2,3,4],[1]]}', 422, "different lengths"),
        (b'{"instances": [["a","b","c","d"]]}', 422, "text was given"),
        (b'{"instances": [[null,1,2,3]]}', 422, "null"),
        (b'{"inputs": {"Y": [[1,2,3,4]]}}', 422, "no input 'Y'"),
        (b'"text"', 422, "instances"),
        (b"\x93NUMPY\x01\x00rubbish", 400, "NumPy's format"),
    ],
)
def test_wrong_bodies_are_told_what_the_model_takes(onnx: httpx.Client, body: bytes, status: int, words: str) -> None:
    answer = onnx.post("/", content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.json()["detail"]


def test_open_inference_protocol(onnx: httpx.Client) -> None:
    assert onnx.get("/v2/health/live").status_code == 200
    assert onnx.get("/v2/health/ready").status_code == 200
    assert onnx.get("/v2/models/iris/ready").json() == {"name": "iris", "ready": True}
    assert onnx.get("/v2/models/iris").json()["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    given = {"id": "7", "inputs": [{"name": "X", "shape": [2, 4], "datatype": "FP32", "data": [*ROW, *ROW]}]}
    answer = onnx.post("/v2/models/iris/infer", json=given).json()
    assert answer["id"] == "7"
    assert answer["outputs"][0] == {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 0]}
    wrong = {"inputs": [{"name": "X", "shape": [3, 4], "datatype": "FP32", "data": ROW}]}
    assert onnx.post("/v2/models/iris/infer", json=wrong).status_code == 400


def test_methods_paths_and_metrics(onnx: httpx.Client) -> None:
    assert onnx.get("/nothing").status_code == 404
    assert onnx.delete("/").status_code == 405
    text = onnx.get("/metrics").text
    assert 'mw_requests_total{status="200"}' in text
    assert "mw_queue_depth 0" in text
    assert "mw_requests_in_flight 0" in text


def test_bad_models_end_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-m", "modelworks.server", "--processor", "onnx", "--model", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"no .onnx file in the model; it holds weights.bin" in done.stderr


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "processor.py").write_text(PROCESSOR)
    return tmp_path


def test_python_processor(code: Path) -> None:
    with running("--processor", "python", "--entry", "processor.py:Echo", cwd=code) as (process, client):
        assert client.post("/", json={"a": [1, 2]}).json() == {"got": {"a": [1, 2]}}
        raw = client.post("/", content=b"you", headers={"content-type": "text/plain"})
        assert (raw.status_code, raw.content) == (201, b"hello you")
        form = {"content-type": "application/x-www-form-urlencoded"}  # what `curl -d` says of every body
        assert client.post("/", content=b' {"a": 1}', headers=form).json() == {"got": {"a": 1}}
        assert client.post("/", content=b"you", headers=form).content == b"hello you"
        failed = client.post("/", json={"fail": True})
        assert failed.status_code == 500
        assert failed.json()["detail"] == "ValueError: no such thing"
        assert "Traceback" not in failed.text
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 0
        assert b"Traceback" in stderr


def test_a_full_queue_is_429(code: Path) -> None:
    env = {"MW_WORKER_THREADS": "1", "MW_QUEUE_SIZE": "1"}
    with running("--processor", "python", "--entry", "processor.py:Echo", cwd=code, **env) as (_, client):
        answers: list[httpx.Response] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post("/", json={"sleep": True}))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["code"] == "limit-exceeded"


def test_sigterm_answers_what_has_begun(code: Path) -> None:
    with running("--processor", "python", "--entry", "processor.py:Echo", cwd=code) as (process, client):
        answers: list[httpx.Response] = []
        caller = threading.Thread(target=lambda: answers.append(client.post("/", json={"sleep": True})))
        caller.start()
        for _ in range(400):
            if (code / "begun").exists():
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        caller.join()
        assert answers[0].json() == {"slept": True}
        assert answers[0].headers["connection"] == "close"
        assert process.wait(20) == 0


def test_malformed_requests_and_pipelining(code: Path) -> None:
    env = {"MW_MAX_BODY": "1000"}
    with running("--processor", "python", "--entry", "processor.py:Echo", cwd=code, **env) as (process, client):
        path = _socket_path(process)
        assert client.post("/", content=b"x" * 1001).status_code == 413
        assert _raw(path, b"rubbish\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert _raw(path, b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431 ")
        one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n%d"
        last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
        answer = _raw(path, one % 1 + one % 2 + last % 3)
        assert [answer.find(b'{"got":%d}' % number) > 0 for number in (1, 2, 3)] == [True] * 3
        assert answer.find(b'{"got":1}') < answer.find(b'{"got":2}') < answer.find(b'{"got":3}')


def _socket_path(process: subprocess.Popen[bytes]) -> str:
    variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    return next(item for item in variables if item.startswith(b"MW_SOCKET=")).split(b"=", 1)[1].decode()


def _raw(path: str, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return received
