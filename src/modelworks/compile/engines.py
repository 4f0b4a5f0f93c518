"""What computes a model: the library it was made with (eager), ONNX Runtime, OpenVINO. All behind one call."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from modelworks.compile.data import Array, Input
from modelworks.compile.errors import CompileError, first_line

# ONNX type → numpy type.
_TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(int8)": "int8",
    "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64", "tensor(bool)": "bool",
    "tensor(string)": "object",
}  # fmt: skip
ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"


@dataclass(frozen=True)
class Runner:
    """One variant: ``call`` takes arrays by input name and answers with its outputs in order. ``size`` in bytes."""

    engine: str
    precision: str
    call: Callable[[Mapping[str, Array]], Sequence[Array]]
    size: int = 0

    @property
    def name(self) -> str:
        return self.engine if self.engine == "eager" else f"{self.engine} {self.precision}"


def installed(engine: str) -> bool:
    return importlib.util.find_spec(engine) is not None


def open_model(engine: str, path: Path, precision: str, threads: int) -> Runner:
    """A compiled model, ready to run on ``threads`` threads. Raises CompileError when the engine cannot load it."""
    opened = _onnxruntime if engine == ONNXRUNTIME else _openvino
    try:
        call = opened(path, threads)
    except Exception as error:  # both raise their own types, some of them private
        raise CompileError(f"{engine} cannot load the {precision} model: {first_line(error)}") from error
    return Runner(engine, precision, call, path.stat().st_size)


def session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])


def inputs_of(path: Path) -> tuple[Input, ...]:
    """The inputs of an ONNX file. Raises CompileError when ONNX Runtime cannot load it."""
    try:
        found = session(path, 1).get_inputs()
    except Exception as error:
        raise CompileError(f"ONNX Runtime cannot load {path.name}: {first_line(error)}") from error
    return tuple(
        Input(
            one.name,
            _TYPES.get(one.type, "object"),
            tuple(size if isinstance(size, int) and size >= 0 else None for size in one.shape),
        )
        for one in found
    )


def in_batches(runner: Runner, inputs: Mapping[str, Array], size: int) -> list[Array]:
    """The outputs of every row, computed ``size`` rows at a time."""
    count = len(next(iter(inputs.values())))
    parts: list[Sequence[Array]] = []
    for start in range(0, count, size):
        # The last batch is filled: a graph may want exactly its size.
        chosen: Array = np.arange(start, start + size) % count
        feeds = {name: np.ascontiguousarray(array[chosen]) for name, array in inputs.items()}
        parts.append([one[: min(size, count - start)] for one in runner.call(feeds)])
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _onnxruntime(path: Path, threads: int) -> Callable[[Mapping[str, Array]], Sequence[Array]]:
    opened = session(path, threads)
    names = [one.name for one in opened.get_outputs() if one.type.startswith("tensor(")]

    def call(feeds: Mapping[str, Array]) -> Sequence[Array]:
        answer: Sequence[Array] = opened.run(names, dict(feeds))
        return answer

    return call


def _openvino(path: Path, threads: int) -> Callable[[Mapping[str, Array]], Sequence[Array]]:
    import openvino  # noqa: PLC0415 - optional, and slow to import

    core = openvino.Core()
    # FP32 stays FP32 on CPUs that compute BF16: the report compares like with like.
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()
    outputs = len(request.model_outputs)

    def call(feeds: Mapping[str, Array]) -> Sequence[Array]:
        request.infer(dict(feeds), share_inputs=True)
        return [np.array(request.get_output_tensor(index).data) for index in range(outputs)]

    return call
