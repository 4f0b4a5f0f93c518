"""The actor that the bridge keeps on every node: it starts the node's agent and passes on what is asked of it.

Ray sends this class as it stands to nodes on which another release, or nothing of ours, may be installed. So it uses
the standard library alone until it has found out, and what it finds is an answer, never the death of an actor.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import socket
import sys
from typing import Any

_NEEDED = ("boto3", "httptools", "obstore", "pydantic", "uvloop")  # of what the agent and its replicas run on


class Door:
    """``release`` is the platform's version of modelworks; ``edition`` tells doors of another code from these."""

    def __init__(self, release: str, edition: str) -> None:
        self._edition = edition
        self._name = os.environ.get("MW_NODE_NAME") or socket.gethostname()
        self._problem = _misfit(release)
        self._host: Any = None

    async def describe(self) -> dict[str, Any]:
        """``{edition, name, problem, agent}``: whose door it is, and why the node cannot be used, if it cannot."""
        agent = self._host.agent if self._host else 0
        problem = self._problem or (self._host.problem if self._host else "")
        found = {"edition": self._edition, "name": self._name, "problem": problem, "agent": agent}
        return found | {"home": str(self._host.home.root) if self._host else "", "python": platform.python_version()}

    async def configure(self, configuration: dict[str, Any]) -> None:
        """Write what the agent needs (addresses, keys of the store) and have it run. May be repeated."""
        if self._problem:
            return
        if self._host is None:
            host = importlib.import_module("modelworks.runtime.ray.host")  # known to be of our own release
            self._host = host.AgentHost(self._name, configuration["home"])
        await self._host.configure(configuration)

    async def http(self, message: bytes) -> bytes:
        """One request to the agent, and its answer."""
        if self._host is None:
            return _unavailable(self._problem or f"the agent of node {self._name} is about to start")
        answer: bytes = await self._host.http(message)
        return answer

    async def retire(self) -> None:
        """End the agent, whose runs live on without it."""
        if self._host is not None:
            await self._host.retire()


def _misfit(release: str) -> str:
    """Why this interpreter cannot run the platform's agent; empty when it can."""
    remedy = f"install it there: pip install 'modelworks[server]=={release}'"
    where = f"{sys.executable} (Python {platform.python_version()}) of this node"
    if importlib.util.find_spec("modelworks") is None:
        return f"modelworks {release} is not installed for {where}; {remedy}"
    found = getattr(importlib.import_module("modelworks"), "__version__", "of an unknown version")
    if found != release:
        return f"modelworks is {found} for {where}, and {release} on the platform; {remedy}"
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"packages of modelworks are not installed for {where}: {', '.join(missing)}; {remedy}"
    return ""


def _unavailable(detail: str) -> bytes:
    body = {"title": "Unavailable", "status": 503, "detail": detail, "code": "unavailable", "retry_after": 1.0}
    payload = json.dumps({"type": "https://modelworks.dev/problems/unavailable"} | body).encode()
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    return f"{head}Content-Length: {len(payload)}\r\nConnection: keep-alive\r\n\r\n".encode() + payload
