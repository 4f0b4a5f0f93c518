"""Gradient-boosted trees: XGBoost and LightGBM in their own formats. null in JSON is a missing value."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.server.engines.base import find_file, missing
from modelworks.server.processors.tensors import Array, TensorSpec


class XgboostEngine:
    """``predictions`` is what the booster's objective gives: values, or probabilities of each class."""

    platform = "xgboost"
    max_rows: int | None = None

    def __init__(self, directory: Path) -> None:
        path = find_file(
            directory, ("model.ubj", "model.json", "model.bst"), (".ubj", ".json", ".bst", ".deprecated"), "XGBoost"
        )
        try:
            xgboost = importlib.import_module("xgboost")
        except ImportError:
            raise missing("xgboost", "add xgboost, or the smaller xgboost-cpu, to its requirements") from None
        self.name = path.stem
        self._booster = xgboost.Booster()
        try:
            self._booster.load_model(path)
        except xgboost.core.XGBoostError as error:
            raise ValueError(f"{path.name} is not a model of XGBoost {xgboost.__version__}: {error}") from None
        self._booster.set_param({"nthread": len(os.sched_getaffinity(0))})
        self.columns = tuple(self._booster.feature_names or ())
        self.inputs: tuple[TensorSpec, ...] = (_features(self._booster.num_features()),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("predictions", "float32", None),)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        # The columns' names were checked when the rows were made; an array has none.
        return {"predictions": self._booster.inplace_predict(feeds["input"], validate_features=False)}


class LightgbmEngine:
    """``predictions`` is what the booster's objective gives: values, or probabilities of each class."""

    platform = "lightgbm"
    max_rows: int | None = None

    def __init__(self, directory: Path) -> None:
        path = find_file(directory, ("model.txt",), (".txt",), "LightGBM")
        try:
            lightgbm = importlib.import_module("lightgbm")
        except (ImportError, OSError) as error:
            if isinstance(error, OSError):  # libgomp is not in the wheel
                raise ImportError(f"LightGBM cannot be loaded: {error}") from None
            raise missing("lightgbm", "add it to its requirements") from None
        self.name = path.stem
        try:
            self._booster = lightgbm.Booster(model_file=str(path))
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(f"{path.name} is not a model of LightGBM {lightgbm.__version__}: {error}") from None
        self._threads = len(os.sched_getaffinity(0))
        names = tuple(self._booster.feature_name())
        self.columns = () if all(name.startswith("Column_") for name in names) else names
        self.inputs: tuple[TensorSpec, ...] = (_features(self._booster.num_feature()),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("predictions", "float64", None),)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        return {"predictions": self._booster.predict(feeds["input"], num_threads=self._threads)}


def _features(count: int) -> TensorSpec:
    return TensorSpec("input", "float64", (None, int(count)), nullable=True)
