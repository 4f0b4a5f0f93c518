"""Reservations: placed claims whose room is held by a group in a cluster that others use too.

A placement comes with a reservation's name, and counts as room taken from then on; but its claims are placed, for their
owners and for the ledger, only when the cluster has granted the whole group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, update

from modelworks.db import claims, ledger, resources
from modelworks.db.claims import StoredClaim
from modelworks.db.listen import CLAIMS, notify
from modelworks.db.tables import claims as table


@dataclass(frozen=True)
class Reservation:
    """``age`` is in seconds, since it was placed or tried first; ``granted`` once all of it has its room."""

    name: str
    claims: tuple[StoredClaim, ...]
    granted: bool
    age: float


def everything(connection: Connection) -> list[Reservation]:
    """All reservations that some claim has, by name."""
    rows = connection.execute(
        select(
            table.c.key, table.c.reservation, func.extract("epoch", func.now() - table.c.retry_at).label("age")
        ).where(table.c.reservation.is_not(None))
    )
    names = {row.key: (str(row.reservation), float(row.age or 0.0)) for row in rows}
    if not names:
        return []
    members: dict[str, list[StoredClaim]] = defaultdict(list)
    for claim in claims.reserved(connection):
        if claim.claim.key in names and claim.node is not None:  # one may have come, or gone, in between
            members[names[claim.claim.key][0]].append(claim)
    return [
        Reservation(
            name=name,
            claims=tuple(found),
            granted=all(claim.placed_at is not None for claim in found),
            age=max(names[claim.claim.key][1] for claim in found),
        )
        for name, found in sorted(members.items())
    ]


def place(connection: Connection, key: str, node: str, name: str) -> None:
    """The claim has room on ``node`` once the group ``name`` is granted; until then it says what it waited for."""
    values = {"node": node, "reservation": name, "placed_at": None, "retry_at": func.clock_timestamp()}
    connection.execute(update(table).where(table.c.key == key).values(**values))
    notify(connection, CLAIMS)


def grant(connection: Connection, reservation: Reservation) -> None:
    """The group has its room: its claims are placed, their ledger begins, their owners are woken."""
    statement = (
        update(table)
        .where(table.c.reservation == reservation.name, table.c.placed_at.is_(None))
        .values(placed_at=func.clock_timestamp(), reason="", retry_at=None)
        .returning(table.c.key)
    )
    granted = set(connection.scalars(statement))
    for claim in reservation.claims:
        wish = claim.claim
        if wish.key in granted:
            item, price = wish.instance_type, wish.price_per_hour
            ledger.begin(connection, claim.ref, claim.uid, key=wish.key, item=item, price_per_hour=price)
    resources.wake(connection, {claim.uid for claim in reservation.claims})


def refuse(connection: Connection, reservation: Reservation, reason: str, rest: float) -> None:
    """The cluster has not the room: the claims wait again, for ``rest`` seconds in any case."""
    by = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, rest)
    statement = (
        update(table)
        .where(table.c.reservation == reservation.name, table.c.placed_at.is_(None))
        .values(node=None, reservation=None, reason=reason, retry_at=by)
        .values(evict_at=None, evict_reason="", evict_for="")  # it has given back what it was asked for
    )
    connection.execute(statement)
    notify(connection, CLAIMS)
    resources.wake(connection, {claim.uid for claim in reservation.claims})


def abandon(connection: Connection) -> None:
    """There is no cluster any more that could grant anything: what it has not granted waits again."""
    statement = update(table).where(table.c.reservation.is_not(None), table.c.placed_at.is_(None))
    values: dict[str, Any] = {"node": None, "reservation": None, "retry_at": None, "reason": "waits for admission"}
    values |= {"evict_at": None, "evict_reason": "", "evict_for": ""}  # as in ``refuse``
    uids = set(connection.scalars(statement.values(**values).returning(table.c.uid)))
    if uids:
        notify(connection, CLAIMS)
        resources.wake(connection, uids)


def explain(connection: Connection, reservations: Sequence[Reservation], reason: str) -> None:
    """What claims wait for whose group cannot even be asked for."""
    names = [reservation.name for reservation in reservations if not reservation.granted]
    statement = update(table).where(
        table.c.reservation.in_(names), table.c.placed_at.is_(None), table.c.reason != reason
    )
    uids = set(connection.scalars(statement.values(reason=reason).returning(table.c.uid)))
    if uids:
        resources.wake(connection, uids)
