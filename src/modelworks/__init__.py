"""Modelworks: a self-hosted machine-learning platform.

The names of the SDK hang off this package and are loaded when first used, so that ``import modelworks`` costs
nothing in a training script or a replica.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "setup_default_session": "modelworks.sdk.session",
    "Session": "modelworks.sdk.session",
    "Estimator": "modelworks.sdk.estimator",
    "Sweep": "modelworks.sdk.sweeps",
    "Model": "modelworks.sdk.model",
    "RegisteredModel": "modelworks.sdk.model",
    "InferenceSpec": "modelworks.sdk.model",
    "container_serving_spec": "modelworks.sdk.model",
    "Predictor": "modelworks.sdk.predictor",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from modelworks.sdk.estimator import Estimator as Estimator
    from modelworks.sdk.model import InferenceSpec as InferenceSpec
    from modelworks.sdk.model import Model as Model
    from modelworks.sdk.model import RegisteredModel as RegisteredModel
    from modelworks.sdk.model import container_serving_spec as container_serving_spec
    from modelworks.sdk.predictor import Predictor as Predictor
    from modelworks.sdk.session import Session as Session
    from modelworks.sdk.session import setup_default_session as setup_default_session
    from modelworks.sdk.sweeps import Sweep as Sweep


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'modelworks' has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), name)
