"""Which waiting workloads fit which nodes, and for each that does not, why. One machine is the case of one node.

The order is priority, then how long a gang's owner has wanted it. A *gang* (the ranks of a job, one replica of a
service) is placed whole or not at all, but for its optional claims (an elastic job's further replicas), which get what
all others leave. Quotas are asked first: who is beyond one waits, and keeps no node.

Who cannot be placed does not stop the smaller ones behind (back-fill), until it has waited ``PATIENCE`` seconds: from
then on the nodes it could use take nobody behind it, so that they empty and it is delayed no longer than what runs
there takes to end. A gang for which even that would not make room, because claims that never end by themselves
(``Claim.lasting``) hold it, keeps nobody waiting.

A gang of higher priority may have others end for it (``eviction``). Room that is being given back is promised to the
first in the order that it is enough for, and nobody behind gets what that one needs: a promise is made anew in every
pass, so none outlives its reason.

Within a pass room only shrinks: what was refused once is refused again for every gang of the same shape, unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from modelworks.kernel import refusals
from modelworks.kernel.decision import Claim
from modelworks.kernel.eviction import candidates, victims
from modelworks.kernel.gang import Gang, Placement, Refusal, Result, rank
from modelworks.kernel.quota import Quotas, counts
from modelworks.kernel.room import (
    NOTHING,
    Amount,
    NodeView,
    Occupant,
    Shape,
    Where,
    add,
    amount,
    fits,
    least,
    most,
    objection,
    shape_of,
    subtract,
)

PATIENCE = 300.0
EXACTLY_TOLD = 100
"""So many at the head of the queue are told what is free where; for those behind that would change too often."""

_UNCOUNTED: Counter[str] = Counter()  # of those whose workspace has no quota

_Member = tuple[Shape, str]


class _Kind:
    """Gangs that are alike, shape by shape, and what a pass has found out about them.

    ``near`` and ``far`` are what they are told; empty before the first one is.
    """

    __slots__ = ("far", "holding", "hopeless", "near", "shapes")

    def __init__(self, shapes: tuple[Shape, ...]) -> None:
        self.shapes = shapes
        self.hopeless = self.holding = False
        self.near = self.far = ""


def place(
    waiting: Sequence[Gang],
    nodes: Sequence[NodeView],
    occupants: Sequence[Occupant] = (),
    quotas: Quotas | None = None,
) -> list[Result]:
    """One pass of admission, in the order in which the gangs were considered. ``quotas`` is used up by it."""
    return _Pass(nodes, waiting, occupants, quotas or Quotas()).run(sorted(waiting, key=rank))


class _Pass:
    """The state of one pass: room by node, and what is known of each shape."""

    def __init__(
        self, nodes: Sequence[NodeView], waiting: Iterable[Gang], occupants: Sequence[Occupant], quotas: Quotas
    ) -> None:
        self._nodes = sorted(nodes, key=lambda node: node.name)
        self._by_name = {node.name: node for node in self._nodes}
        self._capacity = {node.name: amount(node.capacity) for node in self._nodes}
        # Free now; free when all that is leaving has left, without what is promised; and what both allow.
        self._free = {node.name: subtract(self._capacity[node.name], node.used) for node in self._nodes}
        self._soon = {node.name: add(self._free[node.name], node.leaving) for node in self._nodes}
        self._room = dict(self._free)
        self._some_leave = any(node.leaving != NOTHING for node in self._nodes)
        self._occupants = list(occupants)
        self._leave_for = {one.leaves_for for one in self._occupants if one.leaves_for}
        self._lowest = min((one.priority for one in self._occupants if one.movable), default=None)
        self._quotas = quotas
        self._willing: dict[Where, list[NodeView]] = {}
        self._objected: dict[Where, str] = {}
        self._largest: dict[Where, Amount] = {}  # no willing node has more room: it only shrinks
        self._eligible: dict[tuple[Where, Amount], list[NodeView]] = {}
        self._shapes: dict[tuple[int, int, int, str | None, str], Shape] = {}
        self._alike: dict[Shape, Shape] = {}
        self._last: dict[Shape, str] = {}
        self._kinds: dict[tuple[int, ...], _Kind] = {}
        self._emptiest: list[str] = []  # all nodes, the emptiest first; empty when that has changed
        self._held: dict[str, str] = {}  # node → the title of the gang it is held for
        self._peers = {gang.owner: gang.peers for gang in waiting}
        self._few = len(self._peers) <= refusals.USERS_TOLD

    def run(self, order: Sequence[Gang]) -> list[Result]:
        results: dict[str, Result] = {}
        growing: list[Placement] = []
        refused = 0
        for gang in order:
            needed = [claim for claim in gang.claims if not claim.optional]
            result = self._consider(gang, needed, refused >= EXACTLY_TOLD) if needed else Placement(gang, {})
            results[gang.name] = result
            if isinstance(result, Refusal):
                refused += 1
            elif len(needed) < len(gang.claims):
                growing.append(result)
        for placed in growing:
            results[placed.gang.name] = self._grow(placed)
        return list(results.values())

    def _consider(self, gang: Gang, needed: Sequence[Claim], far: bool) -> Result:
        members = [(self._shape(claim), claim.key) for claim in needed]
        if len(members) > 1 and any(shape is not members[0][0] for shape, _ in members):
            # The biggest first: what is hardest to place finds the most room.
            members.sort(key=_size, reverse=True)
        kind = self._kind(members)
        limited = self._quotas.limited(gang.workspace)
        need = counts(needed) if limited else _UNCOUNTED
        beyond = ""
        if limited:
            refusal = self._quotas.never(gang.workspace, need) or self._quotas.spent(gang.workspace, gang.lasting)
            if refusal:
                return Refusal(gang, refusal)
            beyond = self._quotas.objection(gang.workspace, need)
        if not beyond and not kind.hopeless:
            found = self._fit(gang.owner, members)
            if found is not None:
                self._peers[gang.owner] += tuple(found.values())
                if limited:
                    self._quotas.take(gang.workspace, need)
                return Placement(gang, found)
        if beyond or not kind.hopeless:
            promised = self._promise(gang, kind.shapes, need) or self._evict(gang, kind.shapes, need)
            if promised is not None:
                return promised
            if not beyond:
                kind.hopeless = True
        reason = beyond or self._explain(kind, far)
        if gang.waited >= PATIENCE:
            self._hold(gang, kind, need, beyond)
        return Refusal(gang, reason)

    def _kind(self, members: Sequence[_Member]) -> _Kind:
        """By the shapes' identities: to hash what is in them would take longer than all else here."""
        key = tuple([id(shape) for shape, _ in members])
        known = self._kinds.get(key)
        if known is None:
            known = self._kinds[key] = _Kind(tuple([shape for shape, _ in members]))
        return known

    def _shape(self, claim: Claim) -> Shape:
        """One and the same object for all claims that are alike; those that were read together share their parts."""
        parts = (id(claim.resources), id(claim.node_selector), id(claim.tolerations), claim.spread, claim.avoid)
        known = self._shapes.get(parts)
        if known is None:
            made = shape_of(claim)
            known = self._shapes[parts] = self._alike.setdefault(made, made)
        return known

    def _fit(self, owner: str, members: Sequence[_Member]) -> dict[str, str] | None:
        """Take room for all members, or for none."""
        taken: dict[str, str] = {}
        undo: list[tuple[str, Amount, Amount]] = []
        for shape, key in members:
            node = self._choose(shape, [*self._peers[owner], *taken.values()] if shape.spread else ())
            if node is None:
                for name, free, soon in reversed(undo):
                    self._set(name, free, soon)
                return None
            undo.append((node, self._free[node], self._soon[node]))
            self._set(node, subtract(self._free[node], shape.need), subtract(self._soon[node], shape.need))
            taken[key] = node
        return taken

    def _set(self, node: str, free: Amount, soon: Amount) -> None:
        self._free[node], self._soon[node] = free, soon
        self._room[node] = least(free, soon)
        self._emptiest.clear()

    def _choose(self, shape: Shape, peers: Sequence[str]) -> str | None:
        """The fullest node that has room, so that gaps stay large; with ``spread``, in the emptiest zone."""
        need, spread, room = shape.need, shape.spread, self._room
        last = self._last.get(shape)
        if spread is None and last is not None and last not in self._held and fits(need, room[last]):
            return last
        bound = self._largest.get(shape.where)
        if bound is not None and not fits(need, bound):
            return None
        candidates = self._candidates(shape)
        open_nodes = [node for node in candidates if fits(need, room[node.name]) and node.name not in self._held]
        if not open_nodes:
            bound = NOTHING
            for node in self._willing[shape.where]:
                bound = most(bound, room[node.name])
            self._largest[shape.where] = bound
            return None
        crowd: Counter[str] = Counter()
        if spread is not None:
            crowd.update(self._by_name[name].labels.get(spread, "") for name in peers if name in self._by_name)
        best = min(
            open_nodes,
            key=lambda node: (
                node.name == shape.avoid,
                crowd[node.labels.get(spread, "")] if spread is not None else 0,
                # A node with GPUs is kept for who needs them.
                node.capacity.gpu > 0 and need[2] == 0,
                room[node.name][2],
                room[node.name][0],
                room[node.name][1],
                node.name,
            ),
        )
        self._last[shape] = best.name
        return best.name

    def _may(self, where: Where) -> list[NodeView]:
        """The nodes that may take such a claim, whatever their room."""
        known = self._willing.get(where)
        if known is None:
            known = self._willing[where] = [node for node in self._nodes if not objection(where, node)]
        return known

    def _candidates(self, shape: Shape) -> list[NodeView]:
        """The nodes that may take the shape and are large enough when empty."""
        key = (shape.where, shape.need)
        known = self._eligible.get(key)
        if known is None:
            known = [node for node in self._may(shape.where) if fits(shape.need, self._capacity[node.name])]
            self._eligible[key] = known
        return known

    def _promise(self, gang: Gang, kinds: Sequence[Shape], need: Counter[str]) -> Refusal | None:
        """Keep for it what is being given back, when that will be enough."""
        if not (self._some_leave and self._quotas.fits_soon(gang.workspace, need)):
            return None
        found = self._assign(kinds, self._soon)
        if found is None:
            return None
        self._keep(gang, found, need)
        ending = [one.title for one in self._occupants if one.leaves_for == gang.name]
        return Refusal(gang, refusals.waits_for_leaving(kinds, ending))

    def _evict(self, gang: Gang, kinds: Sequence[Shape], need: Counter[str]) -> Refusal | None:
        """Have others end for it. While some do, it has no more of them end for the same need."""
        if self._lowest is None or self._lowest > gang.priority or gang.name in self._leave_for:
            return None

        def feasible(gone: Sequence[Occupant]) -> list[str] | None:
            rooms, less = dict(self._soon), Counter[str]()
            for one in gone:
                for node, use in one.uses.items():
                    if node in rooms:
                        rooms[node] = add(rooms[node], use)
                if one.workspace == gang.workspace:
                    less.update(one.counts)
            if not self._quotas.fits_soon(gang.workspace, need, less):
                return None
            found = self._assign(kinds, rooms)
            return None if found is None else [node for node, _ in found]

        chosen = victims(candidates(self._occupants, gang.priority, gang.owner), feasible)
        if not chosen:
            return None
        for one in chosen:
            self._quotas.leave(one.workspace, one.counts)
            for node, use in one.uses.items():
                if node in self._soon:
                    self._set(node, self._free[node], add(self._soon[node], use))
        self._some_leave = True
        gone = {id(one) for one in chosen}
        self._occupants = [
            replace(one, leaving=True, leaves_for=gang.name) if id(one) in gone else one for one in self._occupants
        ]
        found = self._assign(kinds, self._soon)
        assert found is not None, "who was found to make room makes it"
        self._keep(gang, found, need)
        return Refusal(gang, refusals.waits_for_leaving(kinds, [one.title for one in chosen]), chosen)

    def _keep(self, gang: Gang, found: Sequence[tuple[str, Amount]], need: Counter[str]) -> None:
        """Nobody behind gets what the gang will need."""
        for node, use in found:
            self._set(node, self._free[node], subtract(self._soon[node], use))
        self._quotas.promise(gang.workspace, need)

    def _hold(self, gang: Gang, kind: _Kind, need: Counter[str], beyond: str) -> None:
        """Close the gang's nodes, or its quota, to those behind it, if their emptying would make room for it."""
        if not beyond and kind.holding:
            return
        rooms = {node.name: subtract(self._capacity[node.name], node.lasting) for node in self._nodes}
        if self._assign(kind.shapes, rooms, held=True) is None:
            return
        if beyond:
            self._quotas.hold(gang.workspace, need, gang.title or gang.name)
            return
        kind.holding = True
        for shape in set(kind.shapes):
            for node in self._candidates(shape):
                self._held.setdefault(node.name, gang.title or gang.name)

    def _assign(
        self, kinds: Sequence[Shape], rooms: Mapping[str, Amount], *, held: bool = False
    ) -> list[tuple[str, Amount]] | None:
        """A node for each, in such room; ``held``: nodes that are held for others count, too."""
        left, found = dict(rooms), list[tuple[str, Amount]]()
        for shape in kinds:
            for node in self._candidates(shape):
                name = node.name
                if fits(shape.need, left[name]) and (held or name not in self._held):
                    left[name] = subtract(left[name], shape.need)
                    found.append((name, shape.need))
                    break
            else:
                return None
        return found

    def _grow(self, placed: Placement) -> Result:
        """Optional claims, one by one, in what all others left."""
        gang, found, reason = placed.gang, dict(placed.nodes), ""
        for claim in sorted((claim for claim in gang.claims if claim.optional), key=lambda claim: claim.key):
            need = counts([claim])
            said = (
                self._quotas.never(gang.workspace, need)
                or self._quotas.spent(gang.workspace, claim.lasting)
                or self._quotas.objection(gang.workspace, need)
            )
            shape = self._shape(claim)
            taken = None if said else self._fit(gang.owner, [(shape, claim.key)])
            if taken is None:
                reason = said or self._impossible((shape,)) or refusals.waits_to_grow(shape)
                continue
            self._peers[gang.owner] += tuple(taken.values())
            self._quotas.take(gang.workspace, need)
            found |= taken
        return Placement(gang, found, reason) if found else Refusal(gang, reason)

    def _explain(self, kind: _Kind, far: bool) -> str:
        if far:
            kind.far = kind.far or self._impossible(kind.shapes) or refusals.waits_far_back(kind.shapes, EXACTLY_TOLD)
            return kind.far
        kind.near = kind.near or self._impossible(kind.shapes) or self._waits(kind.shapes)
        return kind.near

    def _waits(self, kinds: Sequence[Shape]) -> str:
        names = {node.name for shape in dict.fromkeys(kinds) for node in self._candidates(shape)}
        if not self._emptiest:
            self._emptiest = sorted(self._free, key=self._fullness)
        emptiest = [name for name in self._emptiest if name in names]
        told = emptiest[: refusals.NODES_TOLD]
        rooms = [(name, self._free[name], self._capacity[name]) for name in told]
        holders = sorted({self._held[name] for name in names & self._held.keys()})
        users = refusals.users(self._occupants, told) if self._few else ()
        return refusals.waits_for_capacity(kinds, rooms, len(emptiest) - len(told), holders, users)

    def _fullness(self, name: str) -> tuple[int, int, int, str]:
        cpu, memory, gpu = self._free[name]
        return -cpu, -memory, -gpu, name

    def _impossible(self, kinds: Sequence[Shape]) -> str:
        """Why even empty nodes would not do; empty when they would."""
        if not self._nodes:
            return "no node has reported yet"
        for shape in dict.fromkeys(kinds):
            willing = self._may(shape.where)
            if not willing:
                if shape.where not in self._objected:
                    self._objected[shape.where] = refusals.no_node_may(shape, self._nodes)
                return self._objected[shape.where]
            if not self._candidates(shape):
                return refusals.too_large(shape.need, [self._capacity[node.name] for node in willing])
        if len(kinds) > 1 and self._assign(kinds, self._capacity, held=True) is None:
            return refusals.larger_than_all(kinds)
        return ""


def _size(member: _Member) -> tuple[int, int, int, str]:
    (cpu, memory, gpu), key = member[0].need, member[1]
    return gpu, memory, cpu, key
