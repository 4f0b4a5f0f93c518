"""The platform's own processes behind the gateway, as services: everything passes, and nobody queues."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelworks.gateway.door import Door
from modelworks.gateway.limits import Limits
from modelworks.gateway.pool import Pool
from modelworks.gateway.problems import CONTROLLER_DOWN, COURIER_DOWN, TRACKING_DOWN, Problem
from modelworks.gateway.service import Service
from modelworks.gateway.table import Replica, Route

_LONGEST_WAIT = 24 * 3600.0
_LARGEST_ARTIFACT = 1 << 40  # bytes


class Controller(Service):
    """The API; its own authorization is checked there."""

    patient = False

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        super().__init__(_route("controller", path, limits, limits.api_body), loop, limits)

    def unreachable(self) -> Problem:
        return CONTROLLER_DOWN

    def _open(self, replica: Replica) -> Door:
        ours = b"Server: modelworks\r\n"
        return Door(Pool(replica.address, self._loop, self._limits, ours), b"", ours)


class Courier(Controller):
    """Takes the requests of asynchronous services, which the gateway has authorized."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        Service.__init__(self, _route("courier", path, limits, limits.api_body), loop, limits)

    def unreachable(self) -> Problem:
        return COURIER_DOWN


class Tracking(Controller):
    """The MLflow server; it looks at API keys itself, and takes models of any size."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        Service.__init__(self, _route("tracking", path, limits, _LARGEST_ARTIFACT), loop, limits)

    def unreachable(self) -> Problem:
        return TRACKING_DOWN

    def broken(self, detail: str) -> Problem:
        return TRACKING_DOWN if "before the answer" in detail else super().broken(detail)


def _route(name: str, path: Path, limits: Limits, max_body: int) -> Route:
    return Route(
        service=name,
        uid=name,
        state="ready",
        message="",
        tokens=(),
        replicas=(Replica(name, f"unix:{path}", ""),),
        concurrency=limits.api_concurrency,
        queue_size=0,
        keepalive=_LONGEST_WAIT,
        max_body=max_body,
        # A watch says nothing for as long as nothing changes.
        hang_timeout=_LONGEST_WAIT,
    )
