"""All that is asked of Ray, by name. The only module that imports it; every call may block, so use threads.

``look`` is the picture of one moment. Groups are placement groups whose bundles are pinned to nodes that we chose.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import modelworks
from modelworks.kernel.errors import Unavailable
from modelworks.runtime.ray import door
from modelworks.runtime.ray.inventory import Amounts, Group, Look, RayNode

NAMESPACE = "modelworks"
_NODE_LABEL = "ray.io/node-id"
_CREATED, _REMOVED = "CREATED", "REMOVED"
_MOST_CALLS = 2000  # at one door at once: long polls wait there
log = logging.getLogger(__name__)


class Cluster:
    """A connection to one cluster, as a driver beside a raylet of this machine."""

    def __init__(self, address: str, namespace: str = NAMESPACE) -> None:
        self.address = address
        self._prefix = f"{namespace}/"
        self._namespace = namespace
        self._ray = importlib.import_module("ray")
        self._groups = importlib.import_module("ray.util.placement_group")
        self._strategies = importlib.import_module("ray.util.scheduling_strategies")
        self._state = importlib.import_module("ray._private.state")
        # By value: the node may have another release of the module, or none.
        self._ray.cloudpickle.register_pickle_by_value(door)
        source = inspect.getsource(door)
        self.edition = hashlib.sha256(f"{modelworks.__version__}\n{source}".encode()).hexdigest()[:16]

    def connect(self) -> None:
        """Raises Unavailable, with Ray's own words."""
        try:
            self._ray.init(
                address=self.address,
                namespace=self._namespace,
                log_to_driver=False,
                logging_level=logging.WARNING,
                configure_logging=False,
                ignore_reinit_error=True,
            )
        except (ConnectionError, RuntimeError, ValueError, OSError, self._ray.exceptions.RayError) as error:
            said = " ".join(str(error).split())[:500]
            raise Unavailable(
                f"Ray at {self.address} cannot be joined: {said}",
                remedy="this machine needs a raylet of the cluster: `ray start --address=HOST:PORT --num-cpus=0`",
                retry_after=1.0,
            ) from error

    def look(self) -> Look:
        """Nodes that live, and all groups of ours that were not removed."""
        free = self._state.available_resources_per_node()
        draining = self._state.state.get_draining_nodes()
        nodes = []
        for found in self._ray.nodes():
            if found["Alive"]:
                identity = str(found["NodeID"])
                nodes.append(
                    RayNode(
                        id=identity,
                        address=str(found["NodeManagerAddress"]),
                        total=Amounts.of(found["Resources"]),
                        free=Amounts.of(free.get(identity, {})),
                        draining=identity in draining,
                        deadline=draining.get(identity, 0) / 1000,
                    )
                )
        return Look(tuple(nodes), tuple(self.groups()))

    # -- doors ------------------------------------------------------------------------------------------------------

    def door(self, node: str) -> Any:
        """The node's actor: the living one, else a new one. Whether it lives, only a call tells."""
        affinity = self._strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        actor = self._ray.remote(door.Door).options(
            name=f"agent-{node}",
            namespace=self._namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,  # the bridge makes it anew, and then knows that it did
            max_concurrency=_MOST_CALLS,
            scheduling_strategy=affinity,
        )
        return actor.remote(modelworks.__version__, self.edition)

    def remove_door(self, actor: Any) -> None:
        self._ray.kill(actor, no_restart=True)

    @property
    def call_errors(self) -> tuple[type[BaseException], ...]:
        """What waiting for an answer of Ray's may raise."""
        found: tuple[type[BaseException], ...] = (self._ray.exceptions.RayError, TimeoutError, ConnectionError)
        return found

    # -- groups -----------------------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        table = self._groups.placement_group_table()
        return [
            Group(
                name=str(found["name"]).removeprefix(self._prefix),
                id=str(identity),
                ready=found["state"] == _CREATED,
                nodes=tuple(str(found["bundles_to_node_id"].get(n, "")) for n in sorted(found["bundles"])),
                bundles=tuple(Amounts.of(found["bundles"][n]) for n in sorted(found["bundles"])),
            )
            for identity, found in table.items()
            if found["state"] != _REMOVED and str(found["name"]).startswith(self._prefix)
        ]

    def reserve(self, name: str, bundles: Sequence[tuple[str, Amounts]], timeout: float) -> bool:
        """A group of that name exists, each bundle on its node (by id); whether it has its room after ``timeout``."""
        known = next((group for group in self.groups() if group.name == name), None)
        if known is not None:
            group = self._groups.PlacementGroup(self._identity(known.id))
        else:
            group = self._groups.placement_group(
                [amounts.bundle() for _, amounts in bundles],
                strategy="PACK",
                name=self._prefix + name,
                lifetime="detached",
                bundle_label_selector=[{_NODE_LABEL: node} for node, _ in bundles],
            )
        return bool(group.wait(timeout))

    def remove(self, name: str) -> None:
        """No group of that name; one that is not there is ignored."""
        for group in self.groups():
            if group.name == name:
                self._groups.remove_placement_group(self._groups.PlacementGroup(self._identity(group.id)))

    def _identity(self, text: str) -> Any:
        return self._groups.PlacementGroupID(bytes.fromhex(text))
