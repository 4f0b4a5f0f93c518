"""The base class of the cloud's Python processors, over this model server.

A class written against it is served unchanged: by ``processor: python`` with ``entry: app.py:MyProcessor``, or by
running its file, whose last lines are ``MyProcessor(worker_threads=10).run()``. The server calls ``initialize`` once
and ``process`` with the bytes of every request; ``pre_process`` and ``post_process`` are the class's own to call.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["BaseProcessor", "Properties", "default_properties"]


class Properties:
    """Settings of the cloud's server, such as ``rpc.keepalive``. Kept, and read by nobody: the service's manifest says
    what they would."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def put(self, name: str, value: object) -> None:
        self._values[str(name)] = str(value)

    def get(self, name: str, default: str | None = None) -> str | None:
        return self._values.get(name, default)

    def __repr__(self) -> str:
        return f"Properties({self._values})"


_properties = Properties()


def default_properties() -> Properties:
    """The properties of this process."""
    return _properties


class BaseProcessor:
    """Override ``process``, and ``initialize`` to load the model.

    ``worker_threads`` calls of ``process`` run at once. ``endpoint``, ``host:port``, is where :meth:`run` listens when
    neither ``MW_SOCKET`` nor ``PORT`` says it. ``worker_processes`` and ``io_threads`` are accepted: replicas are the
    platform's, and one thread reads all sockets.
    """

    def __init__(
        self,
        worker_threads: int = 5,
        worker_processes: int = 1,
        endpoint: str | None = None,
        io_threads: int = 4,
        **_: Any,
    ) -> None:
        self.worker_threads = worker_threads
        self.worker_processes = worker_processes
        self.io_threads = io_threads
        self.endpoint = endpoint

    def initialize(self) -> None:
        """Called once, before the first request."""

    def pre_process(self, data: Any) -> Any:
        return data

    def post_process(self, data: Any) -> Any:
        return data

    def process(self, data: bytes) -> Any:
        """The answer's body and status: ``(bytes, 200)``."""
        raise NotImplementedError(f"{type(self).__name__} has no method process(self, data)")

    def run(self) -> None:
        """Serve until SIGTERM."""
        from modelworks.server.process import serve_processor  # noqa: PLC0415
        from modelworks.server.processors.python import PythonProcessor  # noqa: PLC0415

        if self.endpoint and "PORT" not in os.environ and "MW_SOCKET" not in os.environ:
            os.environ["PORT"] = str(self.endpoint).rpartition(":")[2]
        serve_processor(PythonProcessor(instance=self))
