"""Room: amounts, nodes and what is placed on them, as admission computes with them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from modelworks.kernel.decision import Claim
from modelworks.kernel.quantities import format_bytes
from modelworks.kernel.run import Resources

Amount = tuple[int, int, int]
"""CPU in millicores, memory in bytes, whole GPUs."""

NOTHING: Amount = (0, 0, 0)


def amount(resources: Resources) -> Amount:
    return resources.cpu, resources.memory, resources.gpu


def add(left: Amount, right: Amount) -> Amount:
    return left[0] + right[0], left[1] + right[1], left[2] + right[2]


def subtract(left: Amount, right: Amount) -> Amount:
    return left[0] - right[0], left[1] - right[1], left[2] - right[2]


def least(left: Amount, right: Amount) -> Amount:
    return min(left[0], right[0]), min(left[1], right[1]), min(left[2], right[2])


def most(left: Amount, right: Amount) -> Amount:
    return max(left[0], right[0]), max(left[1], right[1]), max(left[2], right[2])


def fits(need: Amount, room: Amount) -> bool:
    return need[0] <= room[0] and need[1] <= room[1] and need[2] <= room[2]


@dataclass(frozen=True)
class NodeView:
    """A node and what placed claims use of it.

    Of ``used``, ``lasting`` does not end by itself, and ``leaving`` is being given back: its owners were told to.
    """

    name: str
    capacity: Resources
    used: Amount = NOTHING
    lasting: Amount = NOTHING
    leaving: Amount = NOTHING
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    cordoned: bool = False
    draining: bool = False
    away: bool = False  # did not answer lately


@dataclass(frozen=True)
class Occupant:
    """What is given back as one: the placed claims of a gang, or one of its optional claims.

    ``uses`` is by node, ``counts`` in the words of quotas. ``since`` is when it was placed (Unix seconds). ``movable``:
    preemptible, and not lasting. A ``leaving`` one was told to end, ``leaves_for`` that gang.
    """

    name: str
    keys: tuple[str, ...]
    uses: Mapping[str, Amount]
    title: str = ""
    owner: str = ""
    workspace: str = ""
    priority: int = 0
    since: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    optional: bool = False
    movable: bool = False
    leaving: bool = False
    leaves_for: str = ""

    @property
    def size(self) -> Amount:
        total = NOTHING
        for use in self.uses.values():
            total = add(total, use)
        return total


class Where(NamedTuple):
    """Which nodes may take a claim, whatever their room."""

    gpu_model: str | None = None
    gpu_memory: int = 0
    selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[str, ...] = ()


class Shape(NamedTuple):
    """What makes two claims alike: the same needs, the same nodes that may take them."""

    need: Amount
    where: Where
    spread: str | None = None
    avoid: str = ""


def shape_of(claim: Claim) -> Shape:
    wanted = claim.resources
    where = Where(
        wanted.gpu_model if wanted.gpu else None,
        (wanted.gpu_memory or 0) if wanted.gpu else 0,
        tuple(sorted(claim.node_selector.items())) if claim.node_selector else (),
        tuple(sorted(claim.tolerations)) if claim.tolerations else (),
    )
    return Shape((wanted.cpu, wanted.memory, wanted.gpu), where, claim.spread, claim.avoid)


def objection(where: Where, node: NodeView) -> str:
    """Why the node may not take such a claim, whatever its room; empty when it may."""
    if node.away:
        return f"node {node.name} does not answer"
    if node.draining:
        return f"node {node.name} is drained"
    if node.cordoned:
        return f"node {node.name} is cordoned"
    for key, value in where.selector:
        if node.labels.get(key) != value:
            return f"no label {key}={value}"
    for taint in node.taints:
        # A taint "gpu=true" is tolerated by itself or by its key.
        if taint not in where.tolerations and taint.partition("=")[0] not in where.tolerations:
            return f"taint {taint} is not tolerated"
    if where.gpu_model and node.capacity.gpu_model != where.gpu_model:
        return f"no GPU {where.gpu_model}"
    if where.gpu_memory and (node.capacity.gpu_memory or 0) < where.gpu_memory:
        return f"no GPU with {format_bytes(where.gpu_memory)}"
    return ""
