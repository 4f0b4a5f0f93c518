"""scikit-learn models, saved by joblib, pickle or skops.

joblib and pickle execute what the file says: such a model is code, and is trusted as its author is. skops loads only
types that are known to be harmless.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.server.engines.base import find_file, missing
from modelworks.server.processors.tensors import Array, TensorSpec

_REMEDY = "name one that does, such as python-data"
_PREFERRED = ("model.skops", "model.joblib", "model.pkl", "model.pickle")


class SklearnEngine:
    """``predictions`` of any estimator, and of a classifier ``probabilities`` in the order of its ``classes_``."""

    platform = "sklearn"
    max_rows: int | None = None

    def __init__(self, directory: Path) -> None:
        path = find_file(directory, _PREFERRED, (".skops", ".joblib", ".pkl", ".pickle"), "scikit-learn")
        self.name = path.stem
        self._model = _load(path)
        if not hasattr(self._model, "predict"):
            raise ValueError(f"{path.name} holds a {type(self._model).__name__}, which has no method predict")
        self.columns = tuple(str(name) for name in getattr(self._model, "feature_names_in_", ()))
        width = getattr(self._model, "n_features_in_", None)
        # Without a number of features it is text, or the first step takes what it is given.
        shape = (None, int(width)) if width is not None else None
        kind = "float64" if width is not None and not self.columns else ""
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("input", kind, shape, nullable=True),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("predictions", "", None),)
        self._probable = hasattr(self._model, "predict_proba")
        if self._probable:
            self.outputs += (TensorSpec("probabilities", "float64", None),)
        self._frame = _pandas() if self.columns else None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        given: Any = feeds["input"]
        if self._frame is not None:
            given = self._frame(given, columns=list(self.columns)).infer_objects()
        results = {"predictions": self._model.predict(given)}
        if self._probable:
            results["probabilities"] = self._model.predict_proba(given)
        return results


def _load(path: Path) -> Any:
    try:
        importlib.import_module("sklearn")
    except ImportError:
        raise missing("scikit-learn", _REMEDY) from None
    try:
        return _read(path)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{path.name} needs the module {error.name}: it was saved where that could be imported; add its package to "
            "the environment"
        ) from None
    except (ImportError, FileNotFoundError, ValueError):
        raise
    except Exception as error:  # a pickle raises whatever the classes in it raise
        raise ValueError(
            f"{path.name} cannot be read, or needs other versions of its packages: {type(error).__name__}: {error}"
        ) from error


def _read(path: Path) -> Any:
    if path.suffix == ".skops":
        return _skops(path)
    try:
        # joblib reads what pickle wrote, too, and models saved by joblib.dump are often called .pkl.
        return importlib.import_module("joblib").load(path)
    except ModuleNotFoundError as error:
        if error.name != "joblib":
            raise
        with path.open("rb") as file:
            return pickle.load(file)


def _skops(path: Path) -> Any:
    try:
        io = importlib.import_module("skops.io")
    except ImportError:
        raise missing("skops", "add it to the environment's requirements") from None
    unknown = io.get_untrusted_types(file=path)
    if unknown:
        raise ValueError(f"{path.name} holds types that skops does not know to be harmless: {', '.join(unknown)}")
    return io.load(path)


def _pandas() -> Any:
    """Models fitted on a frame pick its columns by name."""
    try:
        return importlib.import_module("pandas").DataFrame
    except ImportError:
        return None
