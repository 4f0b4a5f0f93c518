"""Admission: waiting claims are placed on nodes with room, or told why not; one pass at a time on a platform."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, func, select, text

from modelworks.db import claims, ledger, nodes, resources
from modelworks.db.claims import StoredClaim
from modelworks.kernel.errors import Unavailable
from modelworks.kernel.placement import NOTHING, Amount, Gang, NodeView, Placement, Refusal, add, amount, place

_log = logging.getLogger(__name__)

_ADMISSION_LOCK = 0x6D77_6164_6D69  # any number that nothing else in the database locks
_POLL = 5.0
_LONGEST_PAUSE = 5.0
# Nodes say that they live every 20 s; one that missed several times gets no new work.
_SILENCE = timedelta(seconds=90)


def admit(engine: Engine) -> bool:
    """One pass over all claims, in one transaction; True while some wait.

    A placed claim's ledger row begins with it. Resources whose claims were placed, or wait for another reason than
    before, are woken.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADMISSION_LOCK})
        stored = claims.everything(connection)
        waiting = [claim for claim in stored if claim.node is None]
        if not waiting:
            return False
        now = connection.scalar(select(func.now()))
        assert now is not None
        results = place(_gangs(waiting, stored, now), _views(connection, stored, now))
        by_key = {claim.claim.key: claim for claim in waiting}
        awake: set[str] = set()
        reasons: list[tuple[str, str]] = []
        for result in results:
            for member in result.gang.claims:
                claim = by_key[member.key]
                match result:
                    case Placement(nodes=where):
                        _place(connection, claim, where[member.key])
                        awake.add(claim.uid)
                    case Refusal(reason=reason) if reason != claim.reason:
                        reasons.append((member.key, reason))
                        awake.add(claim.uid)
        claims.explain(connection, reasons)
        if awake:
            resources.wake(connection, awake)
        return any(isinstance(result, Refusal) for result in results)


def _place(connection: Connection, claim: StoredClaim, node: str) -> None:
    wish = claim.claim
    claims.place(connection, wish.key, node)
    ledger.begin(
        connection, claim.ref, claim.uid, key=wish.key, item=wish.instance_type, price_per_hour=wish.price_per_hour
    )


def _gangs(waiting: list[StoredClaim], stored: list[StoredClaim], now: datetime) -> list[Gang]:
    peers: dict[str, list[str]] = defaultdict(list)
    for claim in stored:
        if claim.node is not None:
            peers[claim.uid].append(claim.node)
    members: dict[tuple[str, str], list[StoredClaim]] = defaultdict(list)
    for claim in waiting:
        members[claim.uid, claim.claim.gang].append(claim)
    return [
        Gang(
            name=f"{uid}/{gang}",
            claims=tuple(claim.claim for claim in found),
            waited=(now - min(claim.created_at for claim in found)).total_seconds(),
            owner=uid,
            title=f"{found[0].ref.kind} {found[0].ref.name}",
            peers=tuple(peers[uid]),
        )
        for (uid, gang), found in members.items()
    ]


def _views(connection: Connection, stored: list[StoredClaim], now: datetime) -> list[NodeView]:
    used: dict[str, Amount] = defaultdict(lambda: NOTHING)
    lasting: dict[str, Amount] = defaultdict(lambda: NOTHING)
    for claim in stored:
        if claim.node is not None:
            need = amount(claim.claim.resources)
            used[claim.node] = add(used[claim.node], need)
            if claim.claim.lasting:
                lasting[claim.node] = add(lasting[claim.node], need)
    return [
        NodeView(
            name=node.observation.name,
            capacity=node.observation.capacity,
            used=used[node.observation.name],
            lasting=lasting[node.observation.name],
            labels=node.observation.labels,
            taints=node.observation.taints,
            cordoned=node.cordoned,
            away=now - node.seen_at > _SILENCE,
        )
        for node in nodes.everything(connection)
    ]


class Scheduler(threading.Thread):
    """Admits when it is woken, and every few seconds while something waits."""

    def __init__(self, engine: Engine, *, poll: float = _POLL) -> None:
        super().__init__(name="scheduler", daemon=True)
        self._engine = engine
        self._poll = poll
        self._woken = threading.Event()
        self._stopping = False

    def wake(self, _payload: str = "") -> None:
        self._woken.set()

    def stop(self, timeout: float = 5.0) -> None:
        self._stopping = True
        self._woken.set()
        if self.ident is not None:
            self.join(timeout)

    def run(self) -> None:
        pause = 0.1
        while not self._stopping:
            self._woken.clear()
            try:
                admit(self._engine)
                wait, pause = self._poll, 0.1
            except Exception as error:
                if isinstance(error, Unavailable):
                    _log.warning("scheduler.database_away", extra={"error": error.detail, "retry_in": pause})
                else:
                    _log.exception("scheduler.failed", extra={"retry_in": pause})
                wait, pause = pause, min(pause * 2, _LONGEST_PAUSE)
            self._woken.wait(wait)
