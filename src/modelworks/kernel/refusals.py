"""What a waiting gang is told: one line each. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from modelworks.kernel.quantities import format_bytes, format_cpu
from modelworks.kernel.room import NOTHING, Amount, NodeView, Occupant, Shape, add, objection

NODES_TOLD = 3
_NAMES_TOLD = 3
USERS_TOLD = 10
"""While no more wait they are told who has the room, too: that changes with whatever ends, and each is woken for it."""


def no_node_may(shape: Shape, nodes: Sequence[NodeView]) -> str:
    objections = Counter(objection(shape.where, node) for node in nodes)
    if len(objections) == 1:
        only = next(iter(objections))
        if only.startswith("no "):
            return f"no node has {only.removeprefix('no ')}"
        return only if len(nodes) == 1 else f"on every node {only}"
    told = [f"{text} ({count} of {len(nodes)} nodes)" for text, count in sorted(objections.items())[:NODES_TOLD]]
    return f"no node may take it: {'; '.join(told)}"


def too_large(need: Amount, rooms: Sequence[Amount]) -> str:
    """``rooms`` are the nodes' capacities."""
    largest: Amount = (max(r[0] for r in rooms), max(r[1] for r in rooms), max(r[2] for r in rooms))
    for index, (wanted, most) in enumerate(zip(_parts(need), _parts(largest), strict=True)):
        if need[index] > largest[index]:
            return f"larger than any node: needs {wanted}, the largest has {most}"
    return f"larger than any node: no node has {_amount(need)} together"


def larger_than_all(kinds: Sequence[Shape]) -> str:
    return f"larger than all nodes together: needs {needs(kinds)}, more than they have when empty"


def waits_for_capacity(
    kinds: Sequence[Shape],
    rooms: Sequence[tuple[str, Amount, Amount]],
    others: int,
    holders: Sequence[str],
    users: Sequence[tuple[str, Amount]] = (),
) -> str:
    """``rooms``: name, free and capacity of the nodes that might take it, the emptiest ``NODES_TOLD`` of them.

    ``users`` are who has room there, and how much.
    """
    gpu = any(shape.need[2] for shape in kinds)
    told = [f"node {name} has {_free_of(free, capacity, gpu)}" for name, free, capacity in rooms]
    if others:
        told.append(f"{others} more nodes have no more")
    if users:
        largest = sorted(users, key=lambda user: (user[1][2], user[1][0], user[1][1], user[0]), reverse=True)
        used = ", ".join(f"{title} ({_amount(size)})" for title, size in largest[:_NAMES_TOLD])
        more = f" and {len(users) - _NAMES_TOLD} more" if len(users) > _NAMES_TOLD else ""
        told.append(f"in use by {used}{more}")
    behind = f"; waits behind {', '.join(holders)}" if holders else ""
    return f"waits for capacity: needs {needs(kinds)}; {'; '.join(told)}{behind}"


def users(occupants: Iterable[Occupant], nodes: Sequence[str]) -> list[tuple[str, Amount]]:
    """Who has room on these nodes, and how much."""
    found: dict[str, Amount] = {}
    for one in occupants:
        for node in nodes:
            if node in one.uses:
                found[one.title] = add(found.get(one.title, NOTHING), one.uses[node])
    return list(found.items())


def waits_far_back(kinds: Sequence[Shape], ahead: int) -> str:
    """Of the many far behind: it does not change with every job that ends, so nobody is woken to tell it."""
    return f"waits for capacity: needs {needs(kinds)}; more than {ahead} wait before it"


def waits_to_grow(shape: Shape) -> str:
    return f"waits for room that nobody else needs: {needs((shape,))}"


def waits_for_leaving(kinds: Sequence[Shape], titles: Sequence[str]) -> str:
    """``titles`` are those who end for it; without, somebody ends for another reason."""
    if not titles:
        return f"waits for capacity: needs {needs(kinds)}; room for it is being given back"
    names = list(dict.fromkeys(titles))
    told = ", ".join(names[:_NAMES_TOLD])
    more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
    return f"waits until {told}{more} has ended, preempted for it: needs {needs(kinds)}"


def needs(kinds: Sequence[Shape]) -> str:
    counted = Counter(shape.need for shape in kinds)
    return " and ".join(
        f"{count} × ({_amount(need)})" if count > 1 or len(counted) > 1 else _amount(need)
        for need, count in counted.items()
    )


def _parts(value: Amount) -> tuple[str, str, str]:
    cpu, memory, gpu = value
    return f"{format_cpu(cpu)} CPU", f"{format_bytes(memory)} memory", f"{gpu} GPU"


def _amount(need: Amount) -> str:
    cpu, memory, gpu = _parts(need)
    return f"{cpu}, {memory}, {gpu}" if need[2] else f"{cpu}, {memory}"


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
