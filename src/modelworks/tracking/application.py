"""MLflow's application, made by a process that has set its environment."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

# Starlette warns of a module that MLflow uses: nobody here can do anything about it.
warnings.filterwarnings("ignore", module=r"mlflow\.server\.fastapi_app")

from mlflow.server import handlers  # noqa: E402
from mlflow.server.fastapi_app import app  # noqa: E402

from modelworks.tracking import store  # noqa: E402


def make(url: str) -> tuple[Any, ModuleType]:
    """The ASGI application, and the functions of ``store``."""
    handlers.initialize_backend_stores(url, default_artifact_root="mlflow-artifacts:/")
    return app, store
