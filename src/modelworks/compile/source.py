"""What a model version holds: an ONNX graph, an exported PyTorch program, a scikit-learn estimator, or Python."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelworks.compile.errors import CompileError

Kind = Literal["onnx", "torch", "sklearn", "entry"]
_SUFFIXES: dict[str, Kind] = {".onnx": "onnx", ".pt2": "torch", ".joblib": "sklearn", ".pkl": "sklearn"}
_TOLD: dict[Kind, str] = {
    "onnx": "an ONNX graph",
    "torch": "an exported PyTorch program",
    "sklearn": "a scikit-learn estimator",
    "entry": "a Python function",
}
_STATE = (".pt", ".pth", ".bin", ".safetensors")
_ENTRY = re.compile(r"([A-Za-z0-9_./-]+\.py):([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Source:
    """Where the model is; ``function`` is the name of an entry's function."""

    kind: Kind
    path: Path
    function: str = ""

    def __str__(self) -> str:
        return f"{_TOLD[self.kind]}, {self.path.name}{':' + self.function if self.function else ''}"


def find(folder: Path, entry: str | None = None) -> Source:
    """The model in ``folder`` (or a file). ``entry`` is ``file.py:function`` below it. Raises CompileError."""
    if entry is not None:
        return _entry(folder, entry)
    if folder.is_file():
        kind = _SUFFIXES.get(folder.suffix)
        if kind is None:
            raise CompileError(f"{folder.name} is not a model that can be compiled", _kinds())
        return Source(kind, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for suffix, kind in _SUFFIXES.items():
        found = [path for path in files if path.suffix == suffix]
        named = [path for path in found if path.stem == "model"]
        if len(named) == 1 or len(found) == 1:
            return Source(kind, (named if len(named) == 1 else found)[0])
        if found:
            names = ", ".join(str(path.relative_to(folder)) for path in found[:5])
            raise CompileError(f"several models: {names}", f"call the one that is meant model{suffix}")
    weights = [path.name for path in files if path.suffix in _STATE]
    if weights:
        raise CompileError(
            f"{weights[0]} holds weights without the program",
            "register torch.export.save(torch.export.export(model, example), 'model.pt2'), or name --entry "
            "file.py:function, which returns the module and an example input",
        )
    there = ", ".join(path.name for path in files[:5]) or "nothing"
    raise CompileError(f"there is no model to compile: the version holds {there}", _kinds())


def _entry(folder: Path, entry: str) -> Source:
    matched = _ENTRY.fullmatch(entry)
    if matched is None or entry.startswith("/") or ".." in entry:
        raise CompileError(f"not an entry: {entry!r}", "write file and function, such as build.py:model")
    path = (folder if folder.is_dir() else folder.parent) / matched[1]
    if not path.is_file():
        raise CompileError(f"the entry's file {matched[1]} is not among the model's files")
    return Source("entry", path, matched[2])


def _kinds() -> str:
    return "it takes .onnx, .pt2 (torch.export), .joblib and .pkl (scikit-learn), or --entry file.py:function"
