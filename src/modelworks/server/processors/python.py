"""A class of the user's: ``initialize()`` once, ``process(data)`` for every request.

``process`` gets the parsed document of an ``application/json`` body, else the bytes. It returns what JSON can hold,
bytes, or ``(bytes, status)``. Classes with ``pre_process`` and ``post_process`` have them called around it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from modelworks.server.messages import JSON, Answer, Request
from modelworks.server.problems import Problem
from modelworks.server.processors.tensors import dump_json, parse_json, plain

BINARY = "application/octet-stream"


class PythonProcessor:
    """Loads ``file.py:Class`` and makes one object of it."""

    def __init__(self, entry: str) -> None:
        file, _, class_name = entry.partition(":")
        self.name = class_name
        self._object = _load(Path(file).resolve(), class_name)
        if hasattr(self._object, "initialize"):
            self._object.initialize()

    def predict(self, request: Request) -> Answer:
        data: Any = parse_json(request.body) if request.media_type == JSON and request.body else request.body
        if hasattr(self._object, "pre_process"):
            data = self._object.pre_process(data)
        result = self._object.process(data)
        if hasattr(self._object, "post_process"):
            result = self._object.post_process(result)
        return _answer(result)

    def metadata(self) -> dict[str, Any]:
        return {"name": self.name, "versions": [], "platform": "python", "inputs": [], "outputs": []}

    def infer(self, body: bytes) -> Answer:
        return _answer(self._object.process(parse_json(body)))


def _answer(result: Any) -> Answer:
    status = 200
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], int):
        result, status = result
    if isinstance(result, bytes | bytearray | memoryview):
        body = bytes(result)
        return Answer(body, status, JSON if body[:1] in (b"{", b"[") else BINARY)
    if isinstance(result, str):
        return Answer(result.encode(), status, "text/plain; charset=utf-8")
    try:
        return Answer(dump_json(plain(result)), status)
    except TypeError as error:
        raise Problem(500, "internal", f"process() returned what JSON cannot hold: {error}") from None


def _load(path: Path, class_name: str) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"the code holds no file {path.name}")
    # What the entry's file imports lies beside it.
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    try:
        found = getattr(module, class_name)
    except AttributeError:
        raise ImportError(f"{path.name} defines no class {class_name}") from None
    instance = found()
    if not hasattr(instance, "process"):
        raise ImportError(f"{class_name} in {path.name} has no method process(data)")
    return instance
