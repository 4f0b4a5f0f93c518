"""The MLflow server as a unit: it costs nothing until somebody asks for it."""

from __future__ import annotations

from modelworks.home import Home
from modelworks.supervisor.unit import Unit


def unit(home: Home, argv: tuple[str, ...]) -> Unit:
    # It is asked no questions: they would be requests, and it would never rest.
    return Unit(
        name="tracking",
        argv=argv,
        on_demand=str(home.tracking_socket),
        env={"MALLOC_ARENA_MAX": "2"},
        stop_timeout=15.0,
    )
