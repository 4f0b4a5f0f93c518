"""The bridge, asked from another process: which nodes there are, and groups that reserve room on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from modelworks.kernel.errors import Unavailable, from_problem

_TIMEOUT = 20.0


@dataclass(frozen=True)
class BridgedNode:
    """``socket`` is where the agent is asked, None while it cannot be; ``problem`` says why.

    ``deadline`` (Unix seconds) is when a draining node goes.
    """

    id: str
    name: str
    address: str
    state: str
    problem: str = ""
    socket: Path | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Bundle:
    """Room on a node: CPU in millicores, memory in bytes, GPUs."""

    node: str
    cpu: int
    memory: int
    gpu: int = 0


@dataclass(frozen=True)
class BridgedGroup:
    """``nodes`` are the names of those its bundles lie on; empty text for a node that is gone."""

    name: str
    ready: bool
    nodes: tuple[str, ...]


class BridgeClient:
    """Safe to use from several threads. What is not known is :class:`Unavailable`, never an empty cluster."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        transport = httpx.HTTPTransport(uds=str(socket), verify=False)
        self._http = httpx.Client(base_url="http://bridge", transport=transport, timeout=_TIMEOUT)

    def close(self) -> None:
        self._http.close()

    def nodes(self, since: int = 0, timeout: float = 0.0) -> tuple[int, Sequence[BridgedNode]]:
        """All nodes that Ray takes for alive, and a cursor; waits up to ``timeout`` seconds for a change after
        ``since``. Raises Unavailable while the bridge has not joined the cluster."""
        said = self._call("GET", "/nodes", params={"since": since, "timeout": timeout}, timeout=timeout + _TIMEOUT)
        if not said["connected"]:
            raise Unavailable(str(said["message"]), retry_after=1.0)
        return int(said["cursor"]), [_node(one) for one in said["nodes"]]

    def groups(self) -> Sequence[BridgedGroup]:
        found = self._call("GET", "/groups")["groups"]
        return [BridgedGroup(str(g["name"]), bool(g["ready"]), tuple(g["nodes"])) for g in found]

    def reserve(self, name: str, bundles: Sequence[Bundle], timeout: float) -> tuple[bool, str]:
        """A group of that name exists; whether it has its room after ``timeout`` seconds, and what is short if not."""
        body = {"name": name, "bundles": [vars(bundle) for bundle in bundles], "timeout": timeout}
        said = self._call("PUT", "/groups", json=body, timeout=timeout + _TIMEOUT)
        return bool(said["ready"]), str(said["message"])

    def remove(self, name: str) -> None:
        self._call("DELETE", "/groups", params={"name": name})

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(
                f"the bridge to Ray does not answer: {error}", remedy="see `mw status`", retry_after=1.0
            ) from error
        if response.is_success:
            return body
        raise from_problem(body if isinstance(body, dict) else {}, response.status_code)


def _node(said: dict[str, Any]) -> BridgedNode:
    return BridgedNode(
        id=str(said["id"]),
        name=str(said["name"]),
        address=str(said["address"]),
        state=str(said["state"]),
        problem=str(said["problem"]),
        socket=Path(said["socket"]) if said["socket"] else None,
        deadline=said["deadline"],
    )
