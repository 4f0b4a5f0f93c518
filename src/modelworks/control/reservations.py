"""Room in a Ray cluster: each placement is a placement group there, granted as a whole before its first run begins.

What is placed, our own admission has decided; the group only keeps others who use the cluster from the same room.
``plan`` is pure: from the groups that Ray has and the reservations that claims have, what to do. Whoever is killed
when, the next round finds a group without claims and removes it, or claims without a group and asks for it again.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from modelworks.control.woken import WokenLoop
from modelworks.db import reservations
from modelworks.db.reservations import Reservation
from modelworks.kernel.errors import Unavailable
from modelworks.runtime.ray.bridge_client import BridgeClient, BridgedGroup, Bundle

_log = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds for which Ray may look for a group's room before its claims wait again."""
REST = 5.0
"""Seconds for which claims that were refused are not placed again."""
_ASK = 0.5  # seconds for which one request waits for its room
_PERIOD, _PERIOD_PENDING = 2.0, 0.3


@dataclass(frozen=True)
class Ask:
    """Ask for the group; one that is there already is only looked at."""

    reservation: Reservation


@dataclass(frozen=True)
class Grant:
    reservation: Reservation


@dataclass(frozen=True)
class Refuse:
    """Not granted in time: the group goes, and the claims wait again."""

    reservation: Reservation


@dataclass(frozen=True)
class Drop:
    """A group that nobody has any more, or that waits for what will not come back."""

    name: str


Step = Ask | Grant | Refuse | Drop


def plan(groups: Iterable[BridgedGroup], wanted: Sequence[Reservation], present: Container[str]) -> list[Step]:
    """``groups`` must have been read before ``wanted``: a group is made for claims that are written down already.

    ``present`` are the nodes that there are now.
    """
    known = {group.name: group for group in groups}
    names = {reservation.name for reservation in wanted}
    # What goes makes room for what comes.
    steps: list[Step] = [Drop(name) for name in sorted(known.keys() - names)]
    for reservation in wanted:
        group = known.get(reservation.name)
        if group is not None and group.ready and reservation.granted and len(group.nodes) > len(reservation.claims):
            # Some of its runs have ended, and theirs is admission's to give away: the group is made again without them.
            steps[:0] = [Drop(reservation.name), Ask(reservation)]
        elif group is not None and group.ready:
            if not reservation.granted:
                steps.append(Grant(reservation))
        elif reservation.granted:
            # Its runs may live. A cluster that came back has no group of it; a node that did is another one to Ray, and
            # the group waits for the one that it was, until it is made again.
            if all(claim.node in present for claim in reservation.claims):
                steps.append(Ask(reservation) if group is None else Drop(reservation.name))
        elif reservation.age > PATIENCE:
            steps.append(Refuse(reservation))
        else:
            steps.append(Ask(reservation))
    return steps


def name_of(gang: str) -> str:
    """For one placement of the gang (``<uid>/<gang>``): the next one of it is another group."""
    return f"{gang}/{secrets.token_hex(4)}"


def bundles(reservation: Reservation) -> list[Bundle]:
    """One for each claim, on the node that was chosen for it."""
    found = []
    for claim in reservation.claims:
        needs = claim.claim.resources
        found.append(Bundle(str(claim.node), needs.cpu, needs.memory, needs.gpu))
    return found


class Reserver(WokenLoop):
    """Carries plans out, when it is woken and every other second."""

    def __init__(self, engine: Engine, bridge: BridgeClient) -> None:
        super().__init__("reserver")
        self._engine = engine
        self._bridge = bridge

    def turn(self) -> float:
        return _PERIOD_PENDING if self.look() else _PERIOD

    def look(self) -> bool:
        """One round; True while something is not granted. Raises Unavailable while bridge or database is away."""
        try:
            groups = self._bridge.groups()
            present = {node.name for node in self._bridge.nodes()[1] if node.socket is not None}
        except Unavailable as error:
            with self._engine.begin() as connection:
                reservations.explain(connection, reservations.everything(connection), f"waits for Ray: {error.detail}")
            raise
        with self._engine.connect() as connection:
            wanted = reservations.everything(connection)
        pending = False
        for step in plan(groups, wanted, present):
            pending = self._do(step) or pending
        return pending

    def _do(self, step: Step) -> bool:
        match step:
            case Drop(name):
                self._bridge.remove(name)
                _log.info("reserver.removed", extra={"group": name})
            case Grant(reservation):
                self._grant(reservation)
            case Ask(reservation):
                ready, short = self._bridge.reserve(reservation.name, bundles(reservation), _ASK)
                if ready and not reservation.granted:
                    self._grant(reservation)
                elif not ready:
                    _log.info("reserver.waits_for_room", extra={"group": reservation.name, "short": short})
                return not ready
            case Refuse(reservation):
                _, short = self._bridge.reserve(reservation.name, bundles(reservation), 0.0)
                self._bridge.remove(reservation.name)
                why = f": {short}" if short else ""
                with self._engine.begin() as connection:
                    reservations.refuse(connection, reservation, f"Ray has no room for it{why}", REST)
                _log.info("reserver.refused", extra={"group": reservation.name, "short": short})
        return False

    def _grant(self, reservation: Reservation) -> None:
        with self._engine.begin() as connection:
            reservations.grant(connection, reservation)
