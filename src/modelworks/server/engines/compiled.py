"""What a model's directory says about the engine that it is for, before any engine is imported."""

from __future__ import annotations

import json
from pathlib import Path

_REPORT = "compile.json"  # of the compiler, beside the model


def measured_faster(model: Path) -> bool:
    """Whether the compiler measured and chose OpenVINO for the ONNX file beside its report."""
    report = (model if model.is_dir() else model.parent) / _REPORT
    try:
        found = json.loads(report.read_bytes())
    except (OSError, ValueError):
        return False  # other programs may call a file of theirs so
    return isinstance(found, dict) and found.get("engine") == "openvino"


def is_openvino(model: Path) -> bool:
    """Whether it is OpenVINO's own format, a ``.xml`` with its ``.bin``, and no ONNX."""
    if model.is_file():
        return model.suffix == ".xml"
    if not model.is_dir() or any(model.rglob("*.onnx")):
        return False
    return any(path.with_suffix(".bin").is_file() for path in model.rglob("*.xml"))
