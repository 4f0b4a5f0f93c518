"""What a pass sees: the database, the settings, the fleet's picture, and the claims of the resources at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection

from modelworks.control.fleet import Fleet
from modelworks.control.traffic import TrafficStore
from modelworks.control.usage import UsageReader
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import RunObservation
from modelworks.kernel.traffic import Traffic
from modelworks.products.kind import ClaimView
from modelworks.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class FleetWorld:
    """``products.kind.World`` for one batch of resources, whose claims were read at its beginning."""

    connection: Connection
    settings: Settings
    fleet: Fleet
    claims_by_uid: Mapping[str, Sequence[ClaimView]]
    resources: Sequence[Resource]
    store: TrafficStore | None = None
    usage: UsageReader | None = None
    _shared: dict[object, Any] = field(default_factory=dict)

    def runs(self, uid: str) -> Sequence[RunObservation]:
        placed = [(claim.node, claim) for claim in self.claims(uid) if claim.node is not None]
        found = self.fleet.runs(uid, sorted({node for node, _ in placed}))
        known = {run.key for run in found}
        # Who has room on a lost node has lost it with the node, seen there before or not.
        for node, claim in placed:
            if claim.key not in known and self.fleet.lost(node):
                since = claim.placed_at or claim.created_at
                lost = self.fleet.lose_claim(node, claim.key, since.timestamp())
                found += [lost] if lost is not None else []
        return found

    def claims(self, uid: str) -> Sequence[ClaimView]:
        return self.claims_by_uid.get(uid, ())

    def traffic(self, uid: str, every: float | None = None) -> Traffic:
        return Traffic() if self.store is None else self.store.traffic(uid, every)

    def measure(self, uid: str) -> None:
        if self.usage is not None:
            self.usage.measure(uid)

    def shared(self, load: Callable[[Connection, Sequence[Resource]], T]) -> T:
        if load not in self._shared:
            self._shared[load] = load(self.connection, self.resources)
        found: T = self._shared[load]
        return found
