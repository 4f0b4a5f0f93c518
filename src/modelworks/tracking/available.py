"""Whether this platform has a tracking server."""

from __future__ import annotations

import importlib.util
from functools import cache

from modelworks.kernel.errors import SetupFailed
from modelworks.settings import Settings

# What tells that the whole server is there: mlflow-skinny, the clients' part, comes without the others.
_SERVER_MODULES = ("mlflow", "flask", "alembic", "graphene")
REMEDY = "pip install 'modelworks[server,tracking]', and `mw up` again"


def available(settings: Settings) -> bool:
    return settings.tracking != "off" and installed()


def check(settings: Settings) -> None:
    """Raises SetupFailed when there is to be one and cannot."""
    if settings.tracking == "on" and not installed():
        raise SetupFailed("tracking is on, and the MLflow server is not installed", remedy=REMEDY)


@cache
def installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in _SERVER_MODULES)
