"""Calls of a model side by side, one CPU each, when more waits than one call would have soonest done."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.model_server import Server, serving

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 192
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU has nothing to divide")


def slow(path: Path, *, known: bool = True) -> None:
    """``x`` of [n, 192, 192] → the trace of each one's 17th power: milliseconds of computing a row. Unless its shape
    is ``known`` nothing is computed before the first request."""
    nodes = [onnx.helper.make_node("MatMul", ["x" if i == 0 else f"p{i}", "x"], [f"p{i + 1}"]) for i in range(16)]
    eye = onnx.numpy_helper.from_array(np.eye(SIDE, dtype=np.float32), "eye")
    nodes += [
        onnx.helper.make_node("Mul", ["p16", "eye"], ["d"]),
        onnx.helper.make_node("ReduceSum", ["d", "axes"], ["y"], keepdims=0),
    ]
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", SIDE, SIDE] if known else ["n", "h", "w"]), ("y", ["n"]))
    ]
    graph = onnx.helper.make_graph(nodes, "slow", ends[:1], ends[1:], [eye, axes])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), str(path))


def ask(server: Server, callers: int, each: int) -> None:
    """All at once, each ``each`` times; every caller gets the answer to its own rows."""
    wrong: list[str] = []

    def call(number: int) -> None:
        rows = number % 3 + 1
        values = (np.arange(rows, dtype=np.float32) + number + 1) / 8
        body = io.BytesIO()
        np.save(body, np.stack([np.eye(SIDE, dtype=np.float32) * value for value in values]))
        with httpx.Client(transport=httpx.HTTPTransport(uds=server.address), base_url="http://r", timeout=60) as client:
            for _ in range(each):
                answer = client.post("/", content=body.getvalue())
                if answer.status_code != 200 or not np.allclose(answer.json()["predictions"], SIDE * values**17, 1e-3):
                    wrong.append(answer.text[:200])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "arguments", [("--max-batch-size", "8"), (), ("--max-batch-size", "8", "--max-batch-delay-ms", "5")]
)
def test_everyone_gets_their_own_rows_and_a_call_holds_a_share_of_a_batch(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    slow(tmp_path / "model.onnx", known=False)
    with serving("--processor", "onnx", "--model", str(tmp_path), *arguments) as server:
        ask(server, callers=8, each=3)
        assert server.metric("mw_calls_beside_total") > 0  # nobody knew which is faster: it is tried
        assert server.metric('mw_requests_total{status="200"}') == 24
        assert server.metric("mw_batch_rows_sum") == sum(number % 3 + 1 for number in range(8)) * 3
        assert server.metric("mw_requests_in_flight") == server.metric("mw_queue_depth") == 0


def test_a_number_of_threads_that_was_given_holds(tmp_path: Path) -> None:
    slow(tmp_path / "model.onnx")
    with serving("--processor", "onnx", "--model", str(tmp_path), MW_WORKER_THREADS="1") as server:
        ask(server, callers=4, each=2)
        assert server.metric("mw_calls_beside_total") == 0


def test_weights_are_not_held_twice_where_memory_is_short(tmp_path: Path) -> None:
    slow(tmp_path / "model.onnx")
    with serving("--processor", "onnx", "--model", str(tmp_path), MW_MEMORY="1000") as server:
        ask(server, callers=4, each=2)
        assert server.metric("mw_calls_beside_total") == 0
