"""From a processor's name and a model's directory to what serves it.

Only the wanted engine is imported: an environment holds what it needs.
"""

from __future__ import annotations

from pathlib import Path

from modelworks.server.engines.base import Engine
from modelworks.server.engines.compiled import is_openvino, measured_faster
from modelworks.server.processors.base import Processor

PROCESSORS = ("onnx", "tensorrt", "sklearn", "xgboost", "lightgbm", "torch", "python")


def load(kind: str, model: Path | None, entry: str | None, threads: int | None = None) -> Processor:
    """``threads``: of a class that does not say itself how many calls it takes at once.

    Raises ImportError for what the environment lacks, FileNotFoundError for what the model does, ValueError else.
    """
    if kind == "python":
        from modelworks.server.processors.python import PythonProcessor  # noqa: PLC0415

        if entry is None:
            raise ValueError("the processor python needs --entry file.py:Class")
        return PythonProcessor(entry, threads=threads)
    from modelworks.server.processors.tensor import TensorProcessor  # noqa: PLC0415

    if model is None:
        raise ValueError(f"the processor {kind} needs --model")
    return TensorProcessor(_engine(kind, model if entry is None else _file(model, entry)), model)


def _file(model: Path, entry: str) -> Path:
    """The file of the model that is to be loaded. A model may be one file, with or without a folder around it."""
    path = model if model.is_file() and model.name == entry else model / entry
    if not path.is_file():
        files = [str(one.relative_to(model)) for one in sorted(model.rglob("*")) if one.is_file()]
        raise FileNotFoundError(f"the model holds no file {entry}; it holds {', '.join(files[:5]) or 'nothing'}")
    return path


def _engine(kind: str, model: Path) -> Engine:
    if kind in ("onnx", "tensorrt"):
        if kind == "onnx":
            found = _openvino(model)
            if found is not None:
                return found
        try:
            from modelworks.server.engines import onnx  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if error.name != "onnxruntime":
                raise
            raise ImportError("the environment holds no onnxruntime; add it to its requirements") from None
        return onnx.OnnxEngine(model) if kind == "onnx" else onnx.tensorrt(model)
    if kind == "sklearn":
        from modelworks.server.engines.sklearn import SklearnEngine  # noqa: PLC0415

        return SklearnEngine(model)
    if kind == "torch":
        from modelworks.server.engines.torch import TorchEngine  # noqa: PLC0415

        return TorchEngine(model)
    from modelworks.server.engines import boosting  # noqa: PLC0415

    return boosting.XgboostEngine(model) if kind == "xgboost" else boosting.LightgbmEngine(model)


def _openvino(model: Path) -> Engine | None:
    """OpenVINO, where the model's report says that it measured faster and the environment has it; else None.

    Raises for an OpenVINO model that cannot be run: nothing else reads it.
    """
    only = is_openvino(model)
    if not only and not measured_faster(model):
        return None
    try:
        from modelworks.server.engines.openvino import OpenvinoEngine  # noqa: PLC0415

        return OpenvinoEngine(model)
    except (ImportError, ValueError) as error:
        if only:
            raise
        print(f"compiled for OpenVINO, served by ONNX Runtime: {error}", flush=True)  # noqa: T201
    return None
