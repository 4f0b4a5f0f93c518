"""ONNX models and OpenVINO's own (``.xml`` with ``.bin``) on OpenVINO, on the CPU."""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelworks.server.engines.base import find_file, missing, same_rows
from modelworks.server.processors.tensors import Array, TensorSpec

_SINK = "/sink_port_0"  # what OpenVINO appends to the name of an ONNX output


class OpenvinoEngine:
    """One compiled model that all threads share, each with a request of its own while it computes.

    Computes as the compiler measured it: on all CPUs of the run, in the model's own precision.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, directory: Path) -> None:
        path = find_file(directory, ("model.onnx", "model.xml"), (".onnx", ".xml"), "ONNX or OpenVINO")
        try:
            openvino: Any = importlib.import_module("openvino")
        except ImportError:
            raise missing("openvino", "name one that does, such as openvino") from None
        settings = {
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # not BF16, where a CPU has it
        }
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            self._model = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip(" -=\t")]
            told = next((line for line in lines if not line.startswith(("Exception from", "Check '"))), lines[0])
            version = openvino.__version__.partition("-")[0]
            raise ValueError(f"OpenVINO {version} cannot load {path.name}: {told}") from None
        self.name = path.stem
        self.platform = "openvino" if path.suffix == ".xml" else "openvino_onnx"
        self.inputs = tuple(_spec(port, _name(port)) for port in model.inputs)
        self.outputs = tuple(
            _spec(result.output(0), _name(result.input_value(0), result.get_friendly_name().removesuffix(_SINK)))
            for result in model.get_results()
        )
        self.max_rows = None if same_rows(self.inputs, self.outputs) else 1
        self._idle: deque[Any] = deque()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        request = self._request()
        try:
            # Positions: a name of one tensor may stand for several inputs.
            given = {number: np.ascontiguousarray(feeds[spec.name]) for number, spec in enumerate(self.inputs)}
            request.infer(given, share_inputs=True)
            # Copies: the request's own memory is written over by its next call.
            return {
                spec.name: np.array(request.get_output_tensor(number).data) for number, spec in enumerate(self.outputs)
            }
        finally:
            self._idle.append(request)

    def _request(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._model.create_infer_request()


def _name(port: Any, wanted: str | None = None) -> str:
    """A tensor may have several names; which one the model's author means is not always kept."""
    names = port.get_names()
    if wanted in names:
        return str(wanted)
    return min(names) if names else (wanted or str(port.get_node().get_friendly_name()))


def _spec(port: Any, name: str) -> TensorSpec:
    kind = port.get_element_type()
    dtype = "object" if kind.get_type_name() == "string" else np.dtype(kind.to_dtype()).name
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return TensorSpec(name, dtype, None)
    return TensorSpec(name, dtype, tuple(None if size.is_dynamic else size.get_length() for size in shape))
