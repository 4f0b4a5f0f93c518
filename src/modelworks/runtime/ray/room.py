"""What of a node's resources is ours to give: all that Ray counts, less what others hold there. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from modelworks.runtime.ray.inventory import Amounts, Group, RayNode

_SAMPLES = 6  # Ray tells of free resources a moment late: what a group of ours takes or gives is not others' doing


def held_by_us(node: str, groups: Iterable[Group]) -> Amounts:
    """What our groups have on the node."""
    total = Amounts()
    for group in groups:
        for where, bundle in zip(group.nodes, group.bundles, strict=True):
            if where == node and group.ready:
                total = total.plus(bundle)
    return total


class Foreign:
    """What others hold on one node: the least of the last looks, so that a moment's difference counts for nothing."""

    def __init__(self) -> None:
        self._seen: deque[Amounts] = deque(maxlen=_SAMPLES)

    def add(self, node: RayNode, groups: Iterable[Group]) -> None:
        self._seen.append(node.total.minus(node.free).minus(held_by_us(node.id, groups)))

    @property
    def amounts(self) -> Amounts:
        if len(self._seen) < _SAMPLES:
            return Amounts()
        return Amounts(
            min(one.cpu for one in self._seen),
            min(one.memory for one in self._seen),
            min(one.gpu for one in self._seen),
        )


def overlay(said: Mapping[str, Any], node: RayNode, foreign: Amounts, deadline: float | None) -> dict[str, Any]:
    """The agent's ``GET /node``, with what Ray knows better: its resources, and that it is to go at ``deadline``."""
    ours = node.total.minus(foreign)
    capacity = {**said["capacity"], "cpu": f"{max(1, ours.cpu)}m", "memory": max(1 << 20, ours.memory)}
    capacity["gpu"] = min(int(said["capacity"].get("gpu", 0)), ours.gpu)
    found = {**said, "capacity": capacity}
    notes = list(said.get("notes", ()))
    if foreign != Amounts():
        notes.append(f"other work on Ray holds {foreign} of node {said['name']}")
    found["notes"] = notes
    if deadline is not None:
        found |= {"notice_at": deadline, "notice": "Ray is draining the node"}
    return found
