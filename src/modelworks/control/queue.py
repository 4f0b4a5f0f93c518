"""What admission decides from: stored claims and nodes as gangs, views, occupants and quotas. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from modelworks.db.claims import StoredClaim
from modelworks.db.nodes import Node
from modelworks.kernel.gang import Gang
from modelworks.kernel.quota import Limit, Quotas, counts
from modelworks.kernel.room import NOTHING, Amount, NodeView, Occupant, add, amount


def gangs(waiting: Iterable[StoredClaim], stored: Iterable[StoredClaim], now: datetime) -> list[Gang]:
    """``waiting`` is in the order of ``created_at``, as the database gives it."""
    peers: dict[str, list[str]] = defaultdict(list)
    for claim in stored:
        if claim.node is not None:
            peers[claim.uid].append(claim.node)
    return [
        # By place: names cost as much as all the rest of making one.
        Gang(
            name,
            tuple([claim.claim for claim in found]),
            (now - found[0].created_at).total_seconds(),
            _age(found[0], now),
            found[0].uid,
            _title(found[0]),
            tuple(peers[found[0].uid]) if found[0].uid in peers else (),
            found[0].ref.workspace,
        )
        for name, found in _by_gang(waiting).items()
    ]


def _age(first: StoredClaim, now: datetime) -> float:
    """A job that is queued again, whyever, has the place that it was given when it was submitted.

    A service that has long been there has not: its further replicas wait since they are wanted.
    """
    submitted = None if first.claim.lasting else first.submitted_at
    return (now - (submitted or first.created_at)).total_seconds()


def occupants(stored: Iterable[StoredClaim]) -> list[Occupant]:
    """Placed gangs, and each of their optional claims apart."""
    found: list[Occupant] = []
    for name, members in _by_gang(claim for claim in stored if claim.node is not None).items():
        needed = [claim for claim in members if not claim.claim.optional]
        parts = [needed] if needed else []
        parts += [[claim] for claim in members if claim.claim.optional]
        found += [_occupant(name, part) for part in parts]
    return found


def _occupant(name: str, part: Sequence[StoredClaim]) -> Occupant:
    first = part[0]
    uses: dict[str, Amount] = defaultdict(lambda: NOTHING)
    for claim in part:
        uses[str(claim.node)] = add(uses[str(claim.node)], amount(claim.claim.resources))
    wishes = [claim.claim for claim in part]
    return Occupant(
        name=name,
        keys=tuple(wish.key for wish in wishes),
        uses=dict(uses),
        title=_title(first),
        owner=first.uid,
        workspace=first.ref.workspace,
        priority=max(wish.priority for wish in wishes),
        since=max((claim.placed_at.timestamp() for claim in part if claim.placed_at is not None), default=0.0),
        counts=counts(wishes),
        optional=first.claim.optional,
        movable=all(wish.preemptible and not wish.lasting for wish in wishes),
        leaving=any(claim.evict_at is not None for claim in part),
        leaves_for=next((claim.evict_for for claim in part if claim.evict_for), ""),
    )


def views(machines: Iterable[Node], stored: Iterable[StoredClaim], now: datetime, silence: timedelta) -> list[NodeView]:
    """``silence``: a node that did not answer for longer gets nothing new."""
    used: dict[str, Amount] = defaultdict(lambda: NOTHING)
    lasting: dict[str, Amount] = defaultdict(lambda: NOTHING)
    leaving: dict[str, Amount] = defaultdict(lambda: NOTHING)
    for claim in stored:
        if claim.node is None:
            continue
        need = amount(claim.claim.resources)
        used[claim.node] = add(used[claim.node], need)
        if claim.claim.lasting:
            lasting[claim.node] = add(lasting[claim.node], need)
        elif claim.evict_at is not None:
            leaving[claim.node] = add(leaving[claim.node], need)
    return [
        NodeView(
            name=node.observation.name,
            capacity=node.observation.capacity,
            used=used[node.observation.name],
            lasting=lasting[node.observation.name],
            leaving=leaving[node.observation.name],
            labels=node.observation.labels,
            taints=node.observation.taints,
            cordoned=node.cordoned,
            draining=node.drain_by is not None,
            away=node.away_at is not None or now - node.seen_at > silence,
        )
        for node in machines
    ]


def quotas(limits: Sequence[Limit], stored: Iterable[StoredClaim]) -> Quotas:
    """The limits, and what placed claims are of them."""
    limited = {limit.workspace for limit in limits}
    used: dict[str, Counter[str]] = defaultdict(Counter)
    leaving: dict[str, Counter[str]] = defaultdict(Counter)
    lasting: dict[str, Counter[str]] = defaultdict(Counter)
    for claim in stored:
        workspace = claim.ref.workspace
        if claim.node is None or workspace not in limited:
            continue
        found = counts([claim.claim])
        used[workspace].update(found)
        if claim.claim.lasting:
            lasting[workspace].update(found)
        elif claim.evict_at is not None:
            leaving[workspace].update(found)
    return Quotas(limits, used, leaving, lasting)


def _by_gang(stored: Iterable[StoredClaim]) -> dict[str, list[StoredClaim]]:
    members: dict[str, list[StoredClaim]] = defaultdict(list)
    for claim in stored:
        members[f"{claim.uid}/{claim.claim.gang}"].append(claim)
    return members


def _title(claim: StoredClaim) -> str:
    return f"{claim.ref.kind} {claim.ref.name}"
