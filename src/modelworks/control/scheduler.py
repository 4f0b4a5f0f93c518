"""Admission: waiting claims are placed on nodes with room, or told why not; one pass at a time on a platform.

A pass reads the claims, the nodes and the quotas under one lock, decides purely (``kernel/placement``), and writes
placements, reasons and evictions in the same transaction: whoever is killed when, no room and no quota is given twice,
and no gang is placed in part.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, func, select, text

from modelworks.control.queue import gangs, occupants, quotas, views
from modelworks.control.reservations import name_of
from modelworks.control.woken import WokenLoop
from modelworks.db import claims, ledger, nodes, reservations, resources
from modelworks.db.claims import StoredClaim
from modelworks.kernel.gang import Placement, Refusal, Result
from modelworks.kernel.placement import place
from modelworks.products.quotas.facade import limits

_ADMISSION_LOCK = 0x6D77_6164_6D69  # any number that nothing else in the database locks
_POLL = 5.0
# While something waits: some reasons come with time alone (a silent node, money), and are told within two seconds.
_POLL_WAITING = 1.5
# Nodes say that they live every 20 s; one that missed several times gets no new work.
_SILENCE = timedelta(seconds=90)


def admit(engine: Engine, reserve: bool = False) -> bool:
    """One pass over all claims, in one transaction; True while some wait. With ``reserve``, room counts as given only
    when a cluster grants it, see ``control/reservations``.

    A placed claim's ledger row begins with it. Resources whose claims were placed, are to be given back, or wait for
    another reason than before, are woken.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADMISSION_LOCK})
        stored, machines = claims.everything(connection), nodes.everything(connection)
        now = connection.scalar(select(func.now()))
        assert now is not None
        awake = _drain(connection, stored, machines, now)
        if awake:
            stored = claims.everything(connection)
        waiting = [c for c in stored if c.node is None and (c.retry_at is None or c.retry_at <= now)]
        results: list[Result] = []
        if waiting:
            results = place(
                gangs(waiting, stored, now),
                views(machines, stored, now, _SILENCE),
                occupants(stored),
                quotas(limits(connection), stored),
            )
            awake |= _write(connection, results, waiting, stored, reserve)
        if awake:
            resources.wake(connection, awake)
        return any(isinstance(result, Refusal) or result.reason for result in results)


def _write(
    connection: Connection,
    results: Sequence[Result],
    waiting: Sequence[StoredClaim],
    stored: Sequence[StoredClaim],
    reserve: bool,
) -> set[str]:
    """The uids for whom something changed."""
    by_key = {claim.claim.key: claim for claim in waiting}
    awake: set[str] = set()
    reasons: list[tuple[str, str]] = []
    for result in results:
        where = result.nodes if isinstance(result, Placement) else None
        group = name_of(result.gang.name) if reserve and where else ""
        for member in result.gang.claims:
            if where and member.key in where:
                if group:
                    reservations.place(connection, member.key, where[member.key], group)
                else:
                    _place(connection, by_key[member.key], where[member.key])
                    awake.add(by_key[member.key].uid)
            elif result.reason != (claim := by_key[member.key]).reason:
                reasons.append((member.key, result.reason))
                awake.add(claim.uid)
        if isinstance(result, Refusal) and result.evict:
            awake |= _evict(connection, result, stored)
    claims.explain(connection, reasons)
    return awake


def _place(connection: Connection, claim: StoredClaim, node: str) -> None:
    wish = claim.claim
    claims.place(connection, wish.key, node)
    ledger.begin(
        connection, claim.ref, claim.uid, key=wish.key, item=wish.instance_type, price_per_hour=wish.price_per_hour
    )


def _evict(connection: Connection, refusal: Refusal, stored: Sequence[StoredClaim]) -> set[str]:
    """Each victim has the notice that it asked for; its owner, which is woken, tells for whom it goes."""
    gang = refusal.gang
    keys = {key for one in refusal.evict for key in one.keys}
    by_owner: dict[str, list[StoredClaim]] = defaultdict(list)
    for claim in stored:
        if claim.claim.key in keys:
            by_owner[claim.uid].append(claim)
    awake: set[str] = set()
    for found in by_owner.values():
        notice = max(claim.claim.notice for claim in found)
        reason = f"preempted for {gang.title} of priority {gang.priority}"
        awake |= set(claims.evict(connection, [claim.claim.key for claim in found], notice, reason, gang.name))
    return awake


def _drain(
    connection: Connection, stored: Sequence[StoredClaim], machines: Sequence[nodes.Node], now: datetime
) -> set[str]:
    """What can be moved off nodes that are drained is told to go; the uids of whom that is news for."""
    drained = {machine.observation.name: (machine.drain_by, machine) for machine in machines if machine.drain_by}
    going: dict[str, list[str]] = defaultdict(list)
    if drained:
        for claim in stored:
            if claim.node in drained:
                by, _ = drained[claim.node]
                if claim.evict_at is None or claim.evict_at > by:
                    going[claim.node].append(claim.claim.key)
    awake: set[str] = set()
    for name, keys in going.items():
        by, machine = drained[name]
        why = f": {machine.drain_reason}" if machine.drain_reason else ""
        notice = max((by - now).total_seconds(), 0.0)
        awake |= set(claims.evict(connection, keys, notice, f"node {name} is drained{why}"))
    return awake


class Scheduler(WokenLoop):
    """Admits when it is woken, and every few seconds; sooner while something waits."""

    def __init__(self, engine: Engine, *, poll: float = _POLL, reserve: bool = False) -> None:
        super().__init__("scheduler")
        self._engine = engine
        self._poll = poll
        self._reserve = reserve

    def turn(self) -> float:
        began = time.monotonic()
        if not admit(self._engine, self._reserve):
            return self._poll
        # A long queue is looked at less often: passes take no more than a tenth of the time.
        return min(max(_POLL_WAITING, 10 * (time.monotonic() - began)), self._poll)
