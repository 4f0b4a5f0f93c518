"""Engines behind the protocols: bodies become arrays of what the model declares, and results become answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelworks.server import images, v2
from modelworks.server.engines.base import Engine, Spreading, zeros
from modelworks.server.messages import NPY, Answer, Request
from modelworks.server.problems import BadInput, Problem
from modelworks.server.processors.base import Unbatchable, Work
from modelworks.server.processors.tensors import (
    Array,
    TensorSpec,
    dump_json,
    named,
    parse_json,
    plain,
    read_npy,
    to_array,
    write_npy,
)

_NPY_MAGIC = b"\x93NUMPY"

Feeds = dict[str, Array]


class TensorProcessor:
    """One model whose rows are computed together when their types and shapes allow it."""

    inline = True
    threads = 1

    def __init__(self, engine: Engine, directory: Path | None = None) -> None:
        self._engine = engine
        self.name = engine.name
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.max_rows = engine.max_rows
        self.lanes = engine.lanes if isinstance(engine, Spreading) else 1
        self._beside = engine.run_beside if isinstance(engine, Spreading) else engine.run
        self._specs = {spec.name: spec for spec in self.inputs}
        self._preprocess = images.Preprocess.find(directory)

    def slow_prepare(self, request: Request) -> bool:
        return request.media_type in images.MEDIA_TYPES

    def prepare(self, request: Request) -> Work:
        if request.path.endswith("/infer") and request.path.startswith("/v2/"):
            inference = v2.read(request)
            work = self._work(inference.inputs, lambda results: v2.write(self.name, inference, results))
            work.timeout = inference.timeout
            return work
        body, media_type = request.body, request.media_type
        if not body:
            raise BadInput(f'the body is empty; send {{"instances": [...]}}: {self._described()}', status=400)
        encode = _npy_answer if request.accepts(NPY) else _answer
        if media_type in images.MEDIA_TYPES:
            only = self._only()
            return self._work({only.name: images.read_image(body, only, self._preprocess)}, encode)
        if media_type.startswith("image/"):
            raise Problem(415, "invalid", f"{media_type} is not one of {', '.join(images.MEDIA_TYPES)}")
        if media_type == NPY or body.startswith(_NPY_MAGIC):
            return self._work({self._only().name: read_npy(body)}, encode)
        return self._work(self._feeds(parse_json(body)), encode)

    def split(self, work: Work, limit: int) -> list[tuple[Feeds, int]]:
        pieces = []
        for begin in range(0, work.rows, limit):
            rows = min(limit, work.rows - begin)
            pieces.append(({name: array[begin : begin + rows] for name, array in work.data.items()}, rows))
        return pieces

    def execute(self, data: Sequence[Feeds], *, beside: bool = False) -> list[dict[str, Any]]:
        run = self._beside if beside else self._engine.run
        if len(data) == 1:
            return [run(data[0])]
        joined = {name: np.concatenate([feeds[name] for feeds in data]) for name in data[0]}
        results = run(joined)
        counts = [_rows(feeds) for feeds in data]
        total = sum(counts)
        for name, value in results.items():
            found = len(value) if hasattr(value, "__len__") else None
            if found != total:
                raise Unbatchable(f"the output {name!r} of {total} rows has {found}: its first dimension is no batch")
        pieces, begin = [], 0
        for count in counts:
            pieces.append({name: value[begin : begin + count] for name, value in results.items()})
            begin += count
        return pieces

    def join(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {name: _joined([result[name] for result in results]) for name in results[0]}

    def metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "versions": [],
            "platform": self._engine.platform,
            "inputs": [spec.v2 for spec in self.inputs],
            "outputs": [spec.v2 for spec in self.outputs],
        }

    def examples(self, limit: int | None) -> list[Work]:
        found = []
        # With several lanes a share of a whole batch, too.
        sizes = {1, limit or 1, -(-(limit or 1) // self.lanes)}
        for rows in sorted(sizes if self.max_rows != 1 else {1}):
            feeds = zeros(self.inputs, rows)
            if feeds is not None:
                found.append(self._work(feeds, _answer))
        return found

    def _work(self, given: Mapping[str, Any], encode: Any) -> Work:
        specs = self._specs
        if given.keys() != specs.keys():
            unknown = next((name for name in given if name not in specs), None)
            missing = next((name for name in specs if name not in given), None)
            said = f"there is no input {unknown!r}" if unknown is not None else f"the input {missing!r} is missing"
            raise BadInput(f"{said}; {self._described()}")
        if len(specs) == 1:
            ((name, value),) = given.items()
            array = to_array(value, specs[name])
            return Work({name: array}, encode, _length(array), (array.dtype, array.shape[1:]))
        feeds = {name: to_array(given[name], spec) for name, spec in specs.items()}
        rows = {_length(array) for array in feeds.values()}
        if len(rows) > 1 and self.max_rows != 1:
            sizes = ", ".join(f"{name!r}: {_length(array)}" for name, array in feeds.items())
            raise BadInput(f"the inputs are of different numbers of rows ({sizes}); {self._described()}")
        key = tuple((array.dtype, array.shape[1:]) for array in feeds.values())
        return Work(feeds, encode, rows.pop(), key)

    def _feeds(self, document: Any) -> dict[str, Any]:
        """``{"instances": …}``, ``{"inputs": {name: …}}``, ``{name: …}`` or a bare list."""
        if isinstance(document, list):
            return self._instances(document)
        if not isinstance(document, dict):
            raise BadInput(f'send {{"instances": [...]}} or a list: {self._described()}')
        if "instances" in document:
            return self._instances(document["instances"])
        inputs = document.get("inputs", document)
        if isinstance(inputs, dict):
            return inputs
        return {self._only().name: inputs}

    def _instances(self, instances: Any) -> dict[str, Any]:
        if isinstance(instances, list) and instances and isinstance(instances[0], dict):
            return self._records(instances)
        return {self._only().name: instances}

    def _records(self, instances: list[Any]) -> dict[str, Any]:
        """Rows as objects: ``[{"a": 1}, {"a": 2}]`` → ``{"a": [1, 2]}``, or the only input's columns by name."""
        columns = self._engine.columns
        names = columns or tuple(self._specs)
        wanted = set(names)
        for number, row in enumerate(instances):
            if not isinstance(row, dict) or row.keys() != wanted:
                raise BadInput(f"instance {number} must hold exactly {', '.join(map(repr, names))}")
        if not columns:
            return {name: [row[name] for row in instances] for name in names}
        rows = [[row[name] for name in names] for row in instances]
        if any(isinstance(item, str) for item in rows[0]):
            return {self._only().name: np.array(rows, dtype=object)}
        return {self._only().name: rows}

    def _only(self) -> TensorSpec:
        if len(self.inputs) != 1:
            raise BadInput(
                f'the model has several inputs ({named(self.inputs)}); send {{"inputs": {{name: …}}}}: '
                f"{self._described()}"
            )
        return self.inputs[0]

    def _described(self) -> str:
        return "; ".join(spec.described() for spec in self.inputs)


def _answer(results: dict[str, Any]) -> Answer:
    """The first output is the prediction; all others stand beside it under their names."""
    document: dict[str, Any] = {}
    for name, value in results.items():
        if not document:
            document["predictions"] = plain(value)
        else:
            document.setdefault("outputs", {})[name] = plain(value)
    return Answer(dump_json(document))


def _npy_answer(results: dict[str, Any]) -> Answer:
    return Answer(write_npy(next(iter(results.values()))), 200, NPY)


def _length(array: Array) -> int:
    return array.shape[0] if array.ndim else 1


def _rows(feeds: Feeds) -> int:
    return _length(next(iter(feeds.values())))


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    return [item for value in values for item in value]
