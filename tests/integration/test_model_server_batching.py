"""Batches, deadlines, drains and warm-up of the model server, in its real process."""

from __future__ import annotations

import io
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.model_server import refused, serving

# Batches are computed while `gate` exists not; `calls` holds the rows of each.
BATCHES = """
import json, os, time
class Batches:
    def process_batch(self, items):
        open("begun", "a").write("x")
        while not os.path.exists("gate"):
            time.sleep(0.005)
        with open("calls", "a") as file:
            file.write(json.dumps(items) + "\\n")
        if {"fail": True} in items:
            raise ValueError("one is bad")
        if {"memory": True} in items and len(items) > 1:
            raise MemoryError("no room")
        return [{"got": item, "together": len(items)} for item in items]
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "processor.py").write_text(BATCHES)
    return tmp_path


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")


# An object of the class Whole in a module beside the model.
PICKLE = b"cwhole\nWhole\n)\x81."


class Callers:
    """Requests that are under way at the same time."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.threads: list[threading.Thread] = []
        self.answers: dict[int, httpx.Response] = {}

    def send(self, **request: Any) -> None:
        number = len(self.threads)

        def call() -> None:
            self.answers[number] = self.client.post("/", **request)

        self.threads.append(threading.Thread(target=call))
        self.threads[-1].start()

    def join(self) -> list[httpx.Response]:
        for thread in self.threads:
            thread.join()
        return [self.answers[number] for number in sorted(self.answers)]


def calls(code: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (code / "calls").read_text().splitlines()]


def test_what_waits_is_computed_together_and_one_failure_is_one_failure(code: Path) -> None:
    arguments = ("--processor", "python", "--entry", "processor.py:Batches", "--max-batch-size", "4")
    with serving(*arguments, cwd=code) as server:
        callers = Callers(server.client)
        callers.send(json={"n": 0})
        server.until("mw_requests_in_flight", 1)
        for number, body in enumerate(({"n": 1}, {"fail": True}, {"n": 3}, {"n": 4}, {"n": 5}), start=1):
            callers.send(json=body)
            server.until("mw_queue_depth", number)
        assert server.metric("mw_queue_oldest_seconds") > 0
        (code / "gate").touch()
        answers = callers.join()
        assert [answer.status_code for answer in answers] == [200, 200, 500, 200, 200, 200]
        assert answers[2].json()["detail"] == "ValueError: one is bad"
        assert answers[0].json() == {"got": {"n": 0}, "together": 1}
        # In the order of arrival, at most four; the failed batch was computed one by one.
        assert calls(code) == [
            [{"n": 0}],
            [{"n": 1}, {"fail": True}, {"n": 3}, {"n": 4}],
            *([[{"n": 1}], [{"fail": True}], [{"n": 3}], [{"n": 4}]]),
            [{"n": 5}],
        ]
        assert server.metric("mw_requests_retried_total") == 4


def test_without_memory_for_a_batch_batches_become_smaller(code: Path) -> None:
    (code / "gate").touch()
    arguments = ("--processor", "python", "--entry", "processor.py:Batches", "--max-batch-size", "8")
    with serving(*arguments, cwd=code, MW_MAX_BATCH_DELAY_MS="2000") as server:
        callers = Callers(server.client)
        for _ in range(8):
            callers.send(json={"memory": True})
        assert {answer.status_code for answer in callers.join()} == {200}
        callers = Callers(server.client)
        for number in range(8):
            callers.send(json={"n": number})
        assert {answer.json()["together"] for answer in callers.join()} == {4}


def test_nobody_waits_any_more(code: Path) -> None:
    arguments = ("--processor", "python", "--entry", "processor.py:Batches", "--max-batch-size", "4")
    with serving(*arguments, cwd=code) as server:
        callers = Callers(server.client)
        callers.send(json={"n": 0})
        server.until("mw_requests_in_flight", 1)
        callers.send(json={"late": 1}, headers={"X-Mw-Timeout-Ms": "1"})
        server.until("mw_queue_depth", 1)
        with socket.socket(socket.AF_UNIX) as leaver:
            leaver.connect(server.address)
            body = b'{"gone": 1}'
            leaver.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            leaver.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            server.until("mw_queue_depth", 2)
        server.until('mw_requests_skipped_total{reason="client-gone"}', 1)
        assert server.metric("mw_queue_depth") == 1
        (code / "gate").touch()
        answers = callers.join()
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].json()["code"] == "limit-exceeded"
        assert int(answers[1].headers["retry-after"]) >= 1
        assert server.metric('mw_requests_skipped_total{reason="deadline"}') == 1
        assert calls(code) == [[{"n": 0}]]
        wrong = server.client.post("/", json={}, headers={"X-Mw-Timeout-Ms": "soon"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid")


def test_a_drain_does_not_wait_for_what_is_computed_for_nobody(code: Path) -> None:
    with serving("--processor", "python", "--entry", "processor.py:Batches", cwd=code) as server:
        with socket.socket(socket.AF_UNIX) as leaver:
            leaver.connect(server.address)
            leaver.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
            _until((code / "begun").exists)
        server.client.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_the_variable_lowers_the_size_and_nonsense_is_told(code: Path) -> None:
    (code / "gate").touch()
    arguments = ("--processor", "python", "--entry", "processor.py:Batches", "--max-batch-size", "8")
    with serving(*arguments, cwd=code, MW_MAX_BATCH_SIZE="3", MW_MAX_BATCH_DELAY_MS="0") as server:
        assert server.client.get("/v2/models/m/config").json()["max_batch_size"] == 3
    said = refused("--processor", "python", "--entry", "x.py:X", MW_MAX_BATCH_SIZE="many")
    assert "MW_MAX_BATCH_SIZE is a whole number, not 'many'" in said
    assert "at least 1, not 0" in refused("--processor", "python", "--entry", "x.py:X", MW_MAX_BATCH_SIZE="0")


def make_onnx(directory: Path, batch: int | str = "batch", fill: float = 1.0) -> Path:
    """y = the sum of each row of x, four features."""
    onnx = pytest.importorskip("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "sums",
        [helper.make_tensor_value_info("x", float32, [batch, 4])],
        [helper.make_tensor_value_info("y", float32, [batch, 1])],
        [onnx.numpy_helper.from_array(np.full((4, 1), fill, dtype="float32"), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    return directory


def test_more_rows_than_a_batch_are_computed_in_several_calls(tmp_path: Path) -> None:
    arguments = ("--processor", "onnx", "--model", str(make_onnx(tmp_path)), "--max-batch-size", "4")
    with serving(*arguments) as server:
        rows = [[number, 0, 0, 0] for number in range(10)]
        warm = server.metric("mw_batch_rows_count")
        answer = server.client.post("/", json={"instances": rows})
        assert answer.json()["predictions"] == [[float(number)] for number in range(10)]
        assert server.metric("mw_batch_rows_count") - warm == 3
        assert server.metric('mw_batch_rows_bucket{le="4"}') == server.metric("mw_batch_rows_count")
        given = {"inputs": [{"name": "x", "shape": [5, 4], "datatype": "FP32", "data": [1.0] * 20}]}
        assert server.client.post("/v2/models/m/infer", json=given).json()["outputs"][0]["shape"] == [5, 1]


def test_a_fixed_first_dimension_is_not_batched(tmp_path: Path) -> None:
    model = make_onnx(tmp_path, batch=2)
    with serving("--processor", "onnx", "--model", str(model), "--max-batch-size", "8") as server:
        assert server.client.post("/", json=[[1, 1, 1, 1]] * 2).json()["predictions"] == [[4.0], [4.0]]
        refusal = server.client.post("/", json=[[1, 1, 1, 1]])
        assert "takes float32 of shape [2, 4]; [1, 4] was given" in refusal.json()["detail"]
        server.process.send_signal(signal.SIGTERM)
        output, _ = server.process.communicate(timeout=20)
        assert b"each request alone: it cannot be batched" in output


def test_an_output_without_the_rows_ends_batches(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(PICKLE)
    arguments = ("--processor", "sklearn", "--model", str(tmp_path), "--max-batch-size", "8")
    path = str(tmp_path)
    (tmp_path / "whole.py").write_text(
        "class Whole:\n    n_features_in_ = 1\n    def predict(self, x):\n        return [sum(x[:, 0])]\n"
    )
    with serving(*arguments, PYTHONPATH=path, MW_MAX_BATCH_DELAY_MS="2000") as server:
        for _ in range(2):
            callers = Callers(server.client)
            for number in range(8):
                callers.send(json=[[number]])
            answers = callers.join()
            assert sorted(answer.json()["predictions"][0] for answer in answers) == list(range(8))
        server.process.send_signal(signal.SIGTERM)
        said = server.process.communicate(timeout=20)[1].decode()
        assert said.count("no batches from now on: the output 'predictions' of 8 rows has 1") == 1


def test_a_full_batch_does_not_wait_for_its_delay(tmp_path: Path) -> None:
    arguments = ("--processor", "onnx", "--model", str(make_onnx(tmp_path)), "--max-batch-size", "4")
    # Longer than the client waits.
    with serving(*arguments, MW_MAX_BATCH_DELAY_MS="100000") as server:
        callers = Callers(server.client)
        for number in range(8):
            callers.send(json=[[number, 0, 0, 0]])
        assert sorted(answer.json()["predictions"][0][0] for answer in callers.join()) == list(range(8))


def test_many_at_once_get_their_own_rows(tmp_path: Path) -> None:
    arguments = ("--processor", "onnx", "--model", str(make_onnx(tmp_path)), "--max-batch-size", "16")
    with serving(*arguments, MW_MAX_BATCH_DELAY_MS="1") as server:
        wrong: list[Any] = []

        def ask(begin: int) -> None:
            with httpx.Client(transport=httpx.HTTPTransport(uds=server.address), base_url="http://r") as client:
                for number in range(begin, begin + 50):
                    got = client.post("/", json=[[number, 1, 0, 0], [number, 2, 0, 0]]).json()["predictions"]
                    if got != [[number + 1.0], [number + 2.0]]:
                        wrong.append((number, got))

        threads = [threading.Thread(target=ask, args=(1000 * number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert server.metric("mw_batch_rows_count") < 400


def _npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def test_warm_up_before_ready(tmp_path: Path) -> None:
    model = make_onnx(tmp_path)
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    (bodies / "a.json").write_text('{"instances": [[1, 2, 3, 4]]}')
    (bodies / "b.npy").write_bytes(_npy(np.ones((3, 4), dtype="float32")))
    (bodies / "warm_up").write_text("[[1, 2, 3, 4]]")
    arguments = ("--processor", "onnx", "--model", str(model), "--max-batch-size", "2")
    with serving(*arguments, "--warm-up", str(bodies)) as server:
        server.process.send_signal(signal.SIGTERM)
        output, _ = server.process.communicate(timeout=20)
        said = output.decode()
        assert "warmed up: a.json in" in said
        assert "b.npy in" in said
        assert "warm_up in" in said
        assert "2 made-up rows in" in said
    (bodies / "b.npy").write_bytes(_npy(np.ones((3, 5), dtype="float32")))
    said = refused(*arguments, "--warm-up", str(bodies))
    assert "the warm-up with b.npy failed: input 'x' takes float32 of shape [any, 4]; [3, 5] was given" in said
    assert "no file to warm up with" in refused(*arguments, "--warm-up", str(tmp_path / "nothing"))
