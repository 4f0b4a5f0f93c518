"""ONNX models on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from modelworks.server.messages import NPY, Answer, Request
from modelworks.server.problems import BadInput
from modelworks.server.processors.tensors import (
    TensorSpec,
    dump_json,
    named,
    parse_json,
    plain,
    read_npy,
    to_array,
    v2_output,
)

_NPY_MAGIC = b"\x93NUMPY"
_CONTROLS = {"inputs", "instances", "signature_name", "parameters", "id", "outputs"}


class OnnxProcessor:
    """One session that all threads share; ONNX Runtime parallelises inside a call over the run's CPUs."""

    def __init__(self, directory: Path, *, threads: int | None = None) -> None:
        path = find_model(directory)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        providers = [
            name
            for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
            if name in onnxruntime.get_available_providers()
        ]
        self._session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=providers)
        self.name = path.stem
        self.inputs = tuple(_spec(item) for item in self._session.get_inputs())
        self.outputs = tuple(_spec(item) for item in self._session.get_outputs())

    def predict(self, request: Request) -> Answer:
        if not request.body:
            raise BadInput(f'the body is empty; send {{"instances": [...]}}: {self._described()}', status=400)
        if request.media_type == NPY or request.body.startswith(_NPY_MAGIC):
            return self._answer(self._run({self._only().name: read_npy(request.body)}))
        return self._answer(self._run(self._feeds(parse_json(request.body))))

    def metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "versions": [],
            "platform": "onnxruntime_onnx",
            "inputs": [spec.v2 for spec in self.inputs],
            "outputs": [spec.v2 for spec in self.outputs],
        }

    def infer(self, body: bytes) -> Answer:
        document = parse_json(body)
        given = document.get("inputs") if isinstance(document, dict) else None
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            raise BadInput("'inputs' is a list of {name, shape, datatype, data}", status=400)
        feeds = {}
        for item in given:
            name, shape, data = str(item.get("name")), item.get("shape"), item.get("data")
            try:
                feeds[name] = np.asarray(data).reshape(shape) if shape is not None else np.asarray(data)
            except (ValueError, TypeError):
                raise BadInput(f"input {name!r}: the data does not have the shape {shape}", status=400) from None
        wanted = document.get("outputs")
        names = {str(item.get("name")) for item in wanted if isinstance(item, dict)} if wanted else None
        outputs = [v2_output(name, value) for name, value in self._run(feeds).items() if not names or name in names]
        answer: dict[str, Any] = {"model_name": self.name, "outputs": outputs}
        if "id" in document:
            answer["id"] = document["id"]
        return Answer(dump_json(answer))

    def _feeds(self, document: Any) -> dict[str, Any]:
        """``{"instances": …}``, ``{"inputs": {name: …}}``, ``{name: …}`` or a bare list."""
        if isinstance(document, list):
            return {self._only().name: document}
        if not isinstance(document, dict):
            raise BadInput(f'send {{"instances": [...]}} or a list: {self._described()}')
        if "instances" in document:
            instances = document["instances"]
            if isinstance(instances, list) and instances and isinstance(instances[0], dict):
                return self._rows(instances)
            return {self._only().name: instances}
        inputs = document.get("inputs", document)
        if isinstance(inputs, Mapping):
            return dict(inputs)
        return {self._only().name: inputs}

    def _rows(self, instances: list[Any]) -> dict[str, list[Any]]:
        """Instances by column: ``[{"a": 1}, {"a": 2}]`` → ``{"a": [1, 2]}``."""
        names = [spec.name for spec in self.inputs]
        for number, row in enumerate(instances):
            if not isinstance(row, dict) or set(row) != set(names):
                raise BadInput(f"instance {number} must hold exactly {named(self.inputs)}")
        return {name: [row[name] for row in instances] for name in names}

    def _run(self, given: Mapping[str, Any]) -> dict[str, Any]:
        known = {spec.name: spec for spec in self.inputs}
        unknown, missing = [name for name in given if name not in known], [name for name in known if name not in given]
        if unknown or missing:
            said = f"there is no input {unknown[0]!r}" if unknown else f"the input {missing[0]!r} is missing"
            raise BadInput(f"{said}; {self._described()}")
        feeds = {name: to_array(value, known[name]) for name, value in given.items()}
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def _answer(self, results: dict[str, Any]) -> Answer:
        """The first output is the prediction; all others stand beside it under their names."""
        first, *others = results.items()
        document: dict[str, Any] = {"predictions": plain(first[1])}
        if others:
            document["outputs"] = {name: plain(value) for name, value in others}
        return Answer(dump_json(document))

    def _only(self) -> TensorSpec:
        if len(self.inputs) != 1:
            raise BadInput(f'the model has several inputs; send {{"inputs": {{name: …}}}}: {self._described()}')
        return self.inputs[0]

    def _described(self) -> str:
        return "; ".join(spec.described() for spec in self.inputs)


def find_model(directory: Path) -> Path:
    """``model.onnx``, else the only ``.onnx`` file below. Raises FileNotFoundError naming what is there instead."""
    if directory.is_file():
        return directory
    preferred = directory / "model.onnx"
    if preferred.is_file():
        return preferred
    found = sorted(directory.rglob("*.onnx"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path.relative_to(directory)) for path in found[:5])
        raise FileNotFoundError(f"several .onnx files in the model and none is called model.onnx: {names}")
    there = ", ".join(sorted(path.name for path in directory.iterdir())[:5]) if directory.is_dir() else "nothing"
    raise FileNotFoundError(f"no .onnx file in the model; it holds {there or 'nothing'}")


def _spec(item: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in item.shape)
    return TensorSpec(item.name, item.type, shape)
