"""Claims: runs' wishes for room on a node, waiting or placed. ``control/scheduler`` places them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Select, Text, any_, bindparam, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY

from modelworks.db.listen import CLAIMS, notify
from modelworks.db.tables import claims as table
from modelworks.db.tables import nodes, resources
from modelworks.kernel.decision import Claim
from modelworks.kernel.resource import Ref
from modelworks.kernel.run import Resources
from modelworks.products.kind import ClaimView


class StoredClaim(NamedTuple):
    """A claim with whose it is and where it stands. ``node`` is None while it waits.

    One with ``evict_at`` is to be given back by then, so that the gang ``evict_for`` gets its room, if one wants it.
    """

    claim: Claim
    uid: str
    ref: Ref
    node: str | None
    reason: str
    created_at: datetime
    placed_at: datetime | None
    evict_at: datetime | None
    evict_for: str
    retry_at: datetime | None = None  # one that waits is not placed before
    submitted_at: datetime | None = None  # when the resource was made that it is of


def reserve(connection: Connection, uid: str, claims: Iterable[Claim]) -> None:
    """Queue claims; one that is known stays as it is."""
    terms = {"uid": uid, "reason": "waits for admission"}
    rows = [
        {"key": c.key, "gang": c.gang, "claim": orjson.dumps(_dump(c)).decode(), "priority": c.priority, **terms}
        for c in claims
    ]
    if rows and connection.execute(_RESERVE, rows).rowcount:
        notify(connection, CLAIMS)


_RESERVE = text(
    """
INSERT INTO claims (key, uid, gang, claim, priority, reason)
VALUES (:key, :uid, :gang, CAST(:claim AS jsonb), :priority, :reason)
ON CONFLICT DO NOTHING
"""
)


def release(connection: Connection, key: str) -> None:
    """Give a claim's room back. An unknown key is ignored."""
    if connection.execute(_RELEASE, {"key": key}).rowcount:
        notify(connection, CLAIMS)


_RELEASE = text("DELETE FROM claims WHERE key = :key")


def transfer(connection: Connection, key: str, claim: Claim) -> bool:
    """A placed claim becomes another one on its node; False for one that is not there, or was not placed."""
    values = {"key": claim.key, "gang": claim.gang, "claim": _dump(claim), "priority": claim.priority}
    fresh = {"reason": "", "evict_at": None, "evict_reason": "", "evict_for": "", "placed_at": func.clock_timestamp()}
    statement = update(table).where(table.c.key == key, table.c.node.is_not(None)).values(**values, **fresh)
    return connection.execute(statement).rowcount > 0


def release_all(connection: Connection, uid: str) -> None:
    if connection.execute(_RELEASE_ALL, {"uid": uid}).rowcount:
        notify(connection, CLAIMS)


_RELEASE_ALL = text("DELETE FROM claims WHERE uid = :uid")


def of(connection: Connection, uids: Iterable[str]) -> dict[str, list[ClaimView]]:
    """uid → its claims, by key; a uid without claims is missing."""
    found: dict[str, list[ClaimView]] = defaultdict(list)
    for row in connection.execute(_OF, {"uids": list(uids)}):
        found[row.uid].append(_view(row))
    return dict(found)


# Nothing of them is read as JSON: a node's observation would be, once for each claim on it.
_OF = (
    select(
        *(table.c[name] for name in ("uid", "key", "gang", "node", "reason", "created_at", "placed_at")),
        *(table.c[name] for name in ("evict_at", "evict_reason", "reservation")),
        func.coalesce(nodes.c.observation["address"].astext, "127.0.0.1").label("address"),
        func.coalesce(nodes.c.observation["interface"].astext, "lo").label("interface"),
        nodes.c.observation["lease"].astext.is_not(None).label("leased"),
    )
    .join_from(table, nodes, nodes.c.name == table.c.node, isouter=True)
    .where(table.c.uid == any_(bindparam("uids", type_=ARRAY(Text))))
    .order_by(table.c.key)
)


def _view(row: Any) -> ClaimView:
    return ClaimView(
        key=row.key,
        gang=row.gang,
        node=None if row.reservation and row.placed_at is None else row.node,  # not before its room is granted
        reason=row.reason,
        created_at=row.created_at,
        placed_at=row.placed_at,
        address=row.address,
        interface=row.interface,
        leased=row.leased,
        evict_at=row.evict_at.timestamp() if row.evict_at else None,
        evict_reason=row.evict_reason,
    )


def evict(connection: Connection, keys: Iterable[str], notice: float, reason: str, gang: str = "") -> list[str]:
    """Placed claims are to be given back in ``notice`` seconds, or earlier where that was said before.

    ``gang`` (``<uid>/<gang>``) is to have their room, where it is wanted for one. Returns the uids of the owners for
    whom that is news; they are to be woken.
    """
    by = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, notice)
    statement = (
        update(table)
        .where(table.c.key.in_(list(keys)), table.c.node.is_not(None))
        .where((table.c.evict_at.is_(None)) | (table.c.evict_at > by))
        .values(evict_at=by, evict_reason=reason, evict_for=gang)
        .returning(table.c.uid)
    )
    return sorted(set(connection.scalars(statement)))


def everything(connection: Connection) -> list[StoredClaim]:
    """All claims of resources that exist, waiting and placed, the oldest first."""
    global _last_read
    found = _stored(connection, _EVERYTHING)
    _last_read = {claim.claim.key: claim.claim for claim in found}
    return found


def reserved(connection: Connection) -> list[StoredClaim]:
    """Those of ``everything`` whose room a group holds, or is to hold."""
    return _stored(connection, _EVERYTHING.where(table.c.reservation.is_not(None)))


_last_read: dict[str, Claim] = {}  # by key: most claims are as they were a pass ago, and are not made anew


def _stored(connection: Connection, query: Select[Any]) -> list[StoredClaim]:
    found: list[StoredClaim] = []
    refs: dict[str, Ref] = {}
    known, make = _last_read, StoredClaim._make
    for key, uid, gang, priority, claim, workspace, kind, name, *rest in connection.execute(query).all():
        ref = refs.get(uid)
        if ref is None:
            ref = refs[uid] = Ref(workspace, kind, name)
        wish, own = _wish(claim, priority), known.get(key)
        # The resources are those of one wish alone: with them, all else is the same.
        if own is None or own.resources is not wish.resources or own.gang != gang:
            own = wish.named(key, gang)
        found.append(make((own, uid, ref, *rest)))
    return found


_EVERYTHING: Select[Any] = (
    select(
        *(table.c[name] for name in ("key", "uid", "gang", "priority")),
        # As text: most are alike, and one text is read once.
        cast(table.c.claim, Text),
        *(resources.c[name] for name in ("workspace", "kind", "name")),
        *(table.c[name] for name in ("node", "reason", "created_at", "placed_at", "evict_at", "evict_for", "retry_at")),
        resources.c.created_at,
    )
    .join(resources, resources.c.uid == table.c.uid)
    .order_by(table.c.created_at, table.c.key)
)


def place(connection: Connection, key: str, node: str) -> None:
    connection.execute(_PLACE, {"key": key, "node": node})


_PLACE = text("UPDATE claims SET node = :node, reason = '', placed_at = clock_timestamp() WHERE key = :key")


def explain(connection: Connection, reasons: Sequence[tuple[str, str]]) -> None:
    """Write what waiting claims wait for: ``(key, reason)`` each."""
    if reasons:
        terms = {"keys": [key for key, _ in reasons], "reasons": [reason for _, reason in reasons]}
        connection.execute(_EXPLAIN, terms)


_EXPLAIN = text(
    """
UPDATE claims SET reason = said.reason
FROM unnest(CAST(:keys AS text[]), CAST(:reasons AS text[])) AS said(key, reason)
WHERE claims.key = said.key AND claims.node IS NULL
"""
).bindparams(bindparam("keys"), bindparam("reasons"))


def _dump(claim: Claim) -> dict[str, Any]:
    return {
        "resources": claim.resources.dump(),
        "instance_type": claim.instance_type,
        "price_per_hour": claim.price_per_hour,
        "node_selector": dict(claim.node_selector),
        "tolerations": list(claim.tolerations),
        "spread": claim.spread,
        "lasting": claim.lasting,
        "preemptible": claim.preemptible,
        "notice": claim.notice,
        "optional": claim.optional,
        "spot": claim.spot,
        "avoid": claim.avoid,
    }


@lru_cache(maxsize=4096)
def _wish(text: str, priority: int) -> Claim:
    """A stored claim without what is its own alone."""
    data = orjson.loads(text)
    return Claim(
        key="",
        gang="",
        resources=Resources.parse(data["resources"]),
        instance_type=data["instance_type"],
        price_per_hour=data["price_per_hour"],
        priority=priority,
        node_selector=data["node_selector"],
        tolerations=tuple(data["tolerations"]),
        spread=data["spread"],
        lasting=data["lasting"],
        # Rows of before the upgrade have none of these.
        preemptible=data.get("preemptible", False),
        notice=data.get("notice", 30.0),
        optional=data.get("optional", False),
        spot=data.get("spot", False),
        avoid=data.get("avoid", ""),
    )
