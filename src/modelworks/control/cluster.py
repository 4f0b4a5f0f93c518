"""The nodes of a Ray cluster as the controller sees them: what the bridge tells, as a source of doors."""

from __future__ import annotations

from collections.abc import Sequence

from modelworks.control.doors import Door
from modelworks.runtime.agent_client import AgentClient
from modelworks.runtime.ray.bridge_client import BridgeClient


class RayNodes:
    """A NodeSource. A node that Ray gave up and took back is another door: its runs may have ended meanwhile."""

    def __init__(self, bridge: BridgeClient, lease: float) -> None:
        self._bridge = bridge
        self._lease = lease
        self._known: dict[str, Door] = {}

    def doors(self) -> Sequence[Door]:
        """Raises Unavailable while the bridge has not joined the cluster."""
        _, nodes = self._bridge.nodes()
        present = {node.name: node for node in nodes if node.socket is not None}
        for name in self._known.keys() - present.keys():
            del self._known[name]
        for name, node in present.items():
            if name not in self._known and node.socket is not None:
                self._known[name] = Door(name, AgentClient(node.socket), self._lease)
        return tuple(self._known.values())
