"""Which waiting workloads fit which nodes, and for each that does not, why. One machine is the case of one node.

The order is priority, then the time waited. A *gang* (the ranks of a job, one replica of a service) is placed whole or
not at all. Who cannot be placed does not stop the smaller ones behind (back-fill), until it has waited ``PATIENCE``
seconds: from then on the nodes it could use take nobody behind it, so that they empty and it is delayed no longer than
what runs there takes to end. A gang for which even that would not make room, because claims that never end by
themselves (``Claim.lasting``) hold it, keeps nobody waiting.

Within a pass room only shrinks: what was refused once is refused again for every gang of the same shape, unseen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelworks.kernel.decision import Claim
from modelworks.kernel.quantities import format_bytes, format_cpu
from modelworks.kernel.run import Resources

PATIENCE = 300.0
_NODES_TOLD = 3

Amount = tuple[int, int, int]
"""CPU in millicores, memory in bytes, whole GPUs."""

NOTHING: Amount = (0, 0, 0)


@dataclass(frozen=True)
class Gang:
    """Claims that are placed together. ``owner`` is the resource's uid, ``title`` its name for people.

    ``waited`` is in seconds; ``peers`` are the nodes on which the owner has claims already, for spreading.
    """

    name: str
    claims: tuple[Claim, ...]
    waited: float = 0.0
    owner: str = ""
    title: str = ""
    peers: tuple[str, ...] = ()

    @property
    def priority(self) -> int:
        return max(claim.priority for claim in self.claims)


@dataclass(frozen=True)
class NodeView:
    """A node and what placed claims use of it; ``lasting`` is the part of ``used`` that does not end by itself."""

    name: str
    capacity: Resources
    used: Amount = NOTHING
    lasting: Amount = NOTHING
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    cordoned: bool = False
    away: bool = False  # did not answer lately


@dataclass(frozen=True)
class Placement:
    """The gang is admitted: claim key → node."""

    gang: Gang
    nodes: Mapping[str, str]


@dataclass(frozen=True)
class Refusal:
    """The gang waits. ``reason`` is one line for people."""

    gang: Gang
    reason: str


def place(waiting: Sequence[Gang], nodes: Sequence[NodeView]) -> list[Placement | Refusal]:
    """One pass of admission, in the order in which the gangs were considered."""
    order = sorted(waiting, key=lambda gang: (-gang.priority, -gang.waited, gang.name))
    return _Pass(nodes, waiting).run(order)


def amount(resources: Resources) -> Amount:
    return resources.cpu, resources.memory, resources.gpu


def add(left: Amount, right: Amount) -> Amount:
    return left[0] + right[0], left[1] + right[1], left[2] + right[2]


def subtract(left: Amount, right: Amount) -> Amount:
    return left[0] - right[0], left[1] - right[1], left[2] - right[2]


def fits(need: Amount, room: Amount) -> bool:
    return need[0] <= room[0] and need[1] <= room[1] and need[2] <= room[2]


# What makes two claims alike: the same needs, the same nodes that may take them.
_Shape = tuple[Amount, str | None, int, tuple[tuple[str, str], ...], tuple[str, ...], str | None]


def _shape(claim: Claim) -> _Shape:
    wanted = claim.resources
    return (
        amount(wanted),
        wanted.gpu_model if wanted.gpu else None,
        (wanted.gpu_memory or 0) if wanted.gpu else 0,
        tuple(sorted(claim.node_selector.items())),
        tuple(sorted(claim.tolerations)),
        claim.spread,
    )


class _Pass:
    """The state of one pass: free room by node, and what is known of each shape."""

    def __init__(self, nodes: Sequence[NodeView], waiting: Iterable[Gang]) -> None:
        self._nodes = sorted(nodes, key=lambda node: node.name)
        self._by_name = {node.name: node for node in self._nodes}
        self._free = {node.name: subtract(amount(node.capacity), node.used) for node in self._nodes}
        self._eligible: dict[_Shape, list[NodeView]] = {}
        self._last: dict[_Shape, str] = {}
        self._refused: dict[tuple[_Shape, ...], str] = {}
        self._held: dict[str, str] = {}  # node → the title of the gang it is held for
        self._holding: set[tuple[_Shape, ...]] = set()
        self._peers: dict[str, list[str]] = defaultdict(list)
        for gang in waiting:
            self._peers[gang.owner] = list(gang.peers)

    def run(self, order: Sequence[Gang]) -> list[Placement | Refusal]:
        results: list[Placement | Refusal] = []
        for gang in order:
            # The biggest first: what is hardest to place finds the most room.
            members = sorted(((_shape(claim), claim.key) for claim in gang.claims), key=_size, reverse=True)
            kinds = tuple(shape for shape, _ in members)
            reason = self._refused.get(kinds)
            if reason is None:
                found = self._fit(gang.owner, members)
                if found is not None:
                    self._peers[gang.owner] += found.values()
                    results.append(Placement(gang, found))
                    continue
                reason = self._refused[kinds] = self._explain(kinds)
            if gang.waited >= PATIENCE and kinds not in self._holding:
                self._holding.add(kinds)
                self._hold(gang, kinds)
            results.append(Refusal(gang, reason))
        return results

    def _fit(self, owner: str, members: Sequence[tuple[_Shape, str]]) -> dict[str, str] | None:
        """Take room for all members, or for none."""
        taken: dict[str, str] = {}
        undo: list[tuple[str, Amount]] = []
        for shape, key in members:
            node = self._choose(shape, [*self._peers[owner], *taken.values()])
            if node is None:
                for name, room in reversed(undo):
                    self._free[name] = room
                return None
            undo.append((node, self._free[node]))
            self._free[node] = subtract(self._free[node], shape[0])
            taken[key] = node
        return taken

    def _choose(self, shape: _Shape, peers: Sequence[str]) -> str | None:
        """The fullest node that has room, so that gaps stay large; with ``spread``, in the emptiest zone."""
        need, spread = shape[0], shape[5]
        last = self._last.get(shape)
        if spread is None and last is not None and last not in self._held and fits(need, self._free[last]):
            return last
        open_nodes = [
            node
            for node in self._candidates(shape)
            if fits(need, self._free[node.name]) and node.name not in self._held
        ]
        if not open_nodes:
            return None
        crowd: Counter[str] = Counter()
        if spread is not None:
            crowd.update(self._by_name[name].labels.get(spread, "") for name in peers if name in self._by_name)
        best = min(
            open_nodes,
            key=lambda node: (
                crowd[node.labels.get(spread, "")] if spread is not None else 0,
                # A node with GPUs is kept for who needs them.
                node.capacity.gpu > 0 and need[2] == 0,
                self._free[node.name][2],
                self._free[node.name][0],
                self._free[node.name][1],
                node.name,
            ),
        )
        self._last[shape] = best.name
        return best.name

    def _candidates(self, shape: _Shape) -> list[NodeView]:
        """The nodes that may take the shape and are large enough when empty."""
        known = self._eligible.get(shape)
        if known is None:
            known = [
                node for node in self._nodes if not _objection(shape, node) and fits(shape[0], amount(node.capacity))
            ]
            self._eligible[shape] = known
        return known

    def _hold(self, gang: Gang, kinds: tuple[_Shape, ...]) -> None:
        """Close the gang's nodes to those behind it, if emptying them would make room for it."""
        rooms = {node.name: subtract(amount(node.capacity), node.lasting) for node in self._nodes}
        if not self._fits_in(kinds, rooms):
            return
        for shape in set(kinds):
            for node in self._candidates(shape):
                self._held.setdefault(node.name, gang.title or gang.name)

    def _fits_in(self, kinds: Sequence[_Shape], rooms: Mapping[str, Amount]) -> bool:
        left = dict(rooms)
        for shape in kinds:
            node = next((n.name for n in self._candidates(shape) if fits(shape[0], left[n.name])), None)
            if node is None:
                return False
            left[node] = subtract(left[node], shape[0])
        return True

    def _explain(self, kinds: tuple[_Shape, ...]) -> str:
        if not self._nodes:
            return "no node has reported yet"
        for shape in dict.fromkeys(kinds):
            willing = [node for node in self._nodes if not _objection(shape, node)]
            if not willing:
                return _all_object(shape, self._nodes)
            if not self._candidates(shape):
                return _too_large(shape[0], willing)
        if not self._fits_in(kinds, {node.name: amount(node.capacity) for node in self._nodes}):
            return f"larger than all nodes together: needs {_told(kinds)}, more than they have when empty"
        holders = {
            self._held[node.name] for shape in kinds for node in self._candidates(shape) if node.name in self._held
        }
        behind = f"; waits behind {', '.join(sorted(holders))}" if holders else ""
        rooms = sorted(
            {node.name: node for shape in kinds for node in self._candidates(shape)}.values(),
            key=lambda node: (tuple(-room for room in self._free[node.name]), node.name),
        )
        told = [
            f"node {node.name} has {_free_of(self._free[node.name], amount(node.capacity), _uses_gpu(kinds))}"
            for node in rooms[:_NODES_TOLD]
        ]
        if len(rooms) > _NODES_TOLD:
            told.append(f"{len(rooms) - _NODES_TOLD} more nodes have no more")
        return f"waits for capacity: needs {_told(kinds)}; {'; '.join(told)}{behind}"


def _size(member: tuple[_Shape, str]) -> tuple[int, int, int, str]:
    (cpu, memory, gpu), key = member[0][0], member[1]
    return gpu, memory, cpu, key


def _objection(shape: _Shape, node: NodeView) -> str:
    """Why the node may not take the shape, whatever its room; empty when it may."""
    (_, _, gpus), model, gpu_memory, selector, tolerations, _ = shape
    if node.away:
        return f"node {node.name} does not answer"
    if node.cordoned:
        return f"node {node.name} is cordoned"
    for key, value in selector:
        if node.labels.get(key) != value:
            return f"no label {key}={value}"
    for taint in node.taints:
        # A taint "gpu=true" is tolerated by itself or by its key.
        if taint not in tolerations and taint.partition("=")[0] not in tolerations:
            return f"taint {taint} is not tolerated"
    if gpus and model and node.capacity.gpu_model != model:
        return f"no GPU {model}"
    if gpus and gpu_memory and (node.capacity.gpu_memory or 0) < gpu_memory:
        return f"no GPU with {format_bytes(gpu_memory)}"
    return ""


def _all_object(shape: _Shape, nodes: Sequence[NodeView]) -> str:
    objections = Counter(_objection(shape, node) for node in nodes)
    if len(objections) == 1:
        only = next(iter(objections))
        if only.startswith("no "):
            return f"no node has {only.removeprefix('no ')}"
        return only if len(nodes) == 1 else f"on every node {only}"
    told = [f"{text} ({count} of {len(nodes)} nodes)" for text, count in sorted(objections.items())[:_NODES_TOLD]]
    return f"no node may take it: {'; '.join(told)}"


def _too_large(need: Amount, nodes: Sequence[NodeView]) -> str:
    rooms = [amount(node.capacity) for node in nodes]
    largest: Amount = (max(r[0] for r in rooms), max(r[1] for r in rooms), max(r[2] for r in rooms))
    for index, (wanted, most) in enumerate(zip(_parts(need), _parts(largest), strict=True)):
        if need[index] > largest[index]:
            return f"larger than any node: needs {wanted}, the largest has {most}"
    return f"larger than any node: no node has {_amount_told(need)} together"


def _told(kinds: Sequence[_Shape]) -> str:
    counted = Counter(shape[0] for shape in kinds)
    return " and ".join(
        f"{count} × ({_amount_told(need)})" if count > 1 or len(counted) > 1 else _amount_told(need)
        for need, count in counted.items()
    )


def _parts(value: Amount) -> tuple[str, str, str]:
    cpu, memory, gpu = value
    return f"{format_cpu(cpu)} CPU", f"{format_bytes(memory)} memory", f"{gpu} GPU"


def _amount_told(need: Amount) -> str:
    cpu, memory, gpu = _parts(need)
    return f"{cpu}, {memory}, {gpu}" if need[2] else f"{cpu}, {memory}"


def _uses_gpu(kinds: Sequence[_Shape]) -> bool:
    return any(shape[0][2] for shape in kinds)


def _free_of(free: Amount, capacity: Amount, gpu: bool) -> str:
    """``1 CPU free of 2, 3Gi memory free of 23Gi``: nodes may hold more than they have, when they shrank."""
    room = (max(free[0], 0), max(free[1], 0), max(free[2], 0))
    told = [
        f"{format_cpu(room[0])} CPU free of {format_cpu(capacity[0])}",
        f"{format_bytes(room[1])} memory free of {format_bytes(capacity[1])}",
    ]
    if gpu:
        told.append(f"{room[2]} GPU free of {capacity[2]}")
    return ", ".join(told)
