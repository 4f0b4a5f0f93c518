"""What Ray has and holds, at one moment: nodes, their resources, the groups that reserve them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelworks.kernel.quantities import format_bytes, format_cpu


@dataclass(frozen=True)
class Amounts:
    """CPU in millicores, memory in bytes, whole GPUs: as Ray counts them."""

    cpu: int = 0
    memory: int = 0
    gpu: int = 0

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> Amounts:
        cpu = round(1000 * resources.get("CPU", 0.0))
        return cls(cpu, int(resources.get("memory", 0.0)), int(resources.get("GPU", 0.0)))

    def __str__(self) -> str:
        told = f"{format_cpu(self.cpu)} CPU, {format_bytes(self.memory)} memory"
        return f"{told}, {self.gpu} GPU" if self.gpu else told

    def minus(self, other: Amounts) -> Amounts:
        return Amounts(max(0, self.cpu - other.cpu), max(0, self.memory - other.memory), max(0, self.gpu - other.gpu))

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(self.cpu + other.cpu, self.memory + other.memory, self.gpu + other.gpu)

    def bundle(self) -> dict[str, float]:
        """As Ray wants it: what is not needed is not named."""
        found = {"CPU": self.cpu / 1000, "memory": float(self.memory), "GPU": float(self.gpu)}
        return {name: amount for name, amount in found.items() if amount}


@dataclass(frozen=True)
class RayNode:
    """A living node of the cluster. ``deadline`` (Unix seconds) is when a draining one goes; 0 without an end."""

    id: str
    address: str
    total: Amounts
    free: Amounts
    draining: bool = False
    deadline: float = 0.0


@dataclass(frozen=True)
class Group:
    """``nodes`` are the ids of the nodes its bundles lie on, in their order; empty text for those that lie nowhere."""

    name: str
    id: str
    ready: bool
    nodes: tuple[str, ...]
    bundles: tuple[Amounts, ...] = ()


@dataclass(frozen=True)
class Look:
    """One picture: the nodes that live, and the groups of this platform that were not removed."""

    nodes: tuple[RayNode, ...] = ()
    groups: tuple[Group, ...] = ()
