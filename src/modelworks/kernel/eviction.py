"""Who gives room to a gang of higher priority. Pure.

Whole gangs go, or single optional claims of elastic ones; those first, then the lowest priority, then as few as make
room, and of equals the youngest, which lose the least.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from modelworks.kernel.room import Amount, Occupant

Feasible = Callable[[Sequence[Occupant]], Collection[str] | None]
"""The nodes that the gang would be placed on with these gone; None when it would still wait."""


def candidates(occupants: Sequence[Occupant], priority: int, owner: str) -> list[Occupant]:
    """Who may be made to go for a gang of this priority. Optional claims yield to their equals, too."""
    return [
        one
        for one in occupants
        if one.movable
        and not one.leaving
        and one.owner != owner
        and (one.priority < priority or (one.optional and one.priority == priority))
    ]


def victims(found: Sequence[Occupant], feasible: Feasible) -> tuple[Occupant, ...]:
    """Of the candidates ``found`` those that go; empty when even without all of them the gang would wait."""
    if not found or feasible(found) is None:
        return ()
    by_age = _minimal(sorted(found, key=_youngest_first), feasible, _oldest_first)
    # One large gang may do where several young ones would have to go.
    by_size = _minimal(sorted(found, key=_largest_first), feasible, _smallest_first)
    chosen = min(by_age, by_size, key=lambda those: (len(those), those is by_size))
    gone = {one.name for one in chosen if not one.optional}
    # With a gang go its optional claims, whether their room is needed or not.
    rest = [one for one in found if one.optional and one.name in gone and one not in chosen]
    return (*chosen, *rest)


def _minimal(order: Sequence[Occupant], feasible: Feasible, reprieve: Callable[[Occupant], object]) -> list[Occupant]:
    """The shortest beginning of ``order`` that does, without those of it that need not go."""
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        if feasible(order[:middle]) is None:
            low = middle
        else:
            high = middle
    chosen = list(order[:high])
    where = set(feasible(chosen) or ())
    near = [one for one in chosen if not where.isdisjoint(one.uses)]
    if len(near) < len(chosen) and feasible(near) is not None:
        chosen = near
    for one in sorted(chosen, key=reprieve):  # type: ignore[arg-type]
        without = [other for other in chosen if other is not one]
        if feasible(without) is not None:
            chosen = without
    return chosen


def _youngest_first(one: Occupant) -> tuple[bool, int, float, str]:
    return not one.optional, one.priority, -one.since, one.name


def _largest_first(one: Occupant) -> tuple[bool, int, Amount, float, str]:
    return not one.optional, one.priority, _negative(one.size), -one.since, one.name


def _oldest_first(one: Occupant) -> tuple[bool, int, float, str]:
    return one.optional, -one.priority, one.since, one.name


def _smallest_first(one: Occupant) -> tuple[bool, int, Amount, float, str]:
    cpu, memory, gpu = one.size
    return one.optional, -one.priority, (gpu, memory, cpu), one.since, one.name


def _negative(size: Amount) -> Amount:
    cpu, memory, gpu = size
    return -gpu, -memory, -cpu
