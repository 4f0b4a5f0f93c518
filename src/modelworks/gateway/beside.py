"""At the restart of a gateway that has the port alone, what it has still at replicas counts for its successor.

Several gateways count together anyway. These do it by the same file, and only while one of them drains.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modelworks.gateway.lanes import Slot
from modelworks.gateway.service import Service
from modelworks.gateway.shared import Row, Shared


class Beside:
    """Made once in a process. Services are those whose replicas have limits."""

    def __init__(self, path: Path) -> None:
        """``path`` of the shared file. Raises SetupFailed when too many processes have it open."""
        self._shared = Shared(path)
        self._rows: dict[Slot, Row | None] = {}
        self._shown = False

    def show(self, services: Iterable[Service]) -> None:
        """Tell the others what this process has at replicas now, and from now on, until it ends."""
        self._shown = True
        for service in services:
            for slot in (*service.admission.slots, *service.admission.leaving):
                if (row := self._row(service, slot)) is not None:
                    row.hold(slot.in_flight - slot.elsewhere)

    def look(self, services: Iterable[Service], now: float) -> None:
        """Have what the others hold take up places here, too."""
        shared = self._shared
        if not self._rows and not shared.others():
            return
        shared.bury()
        seen: set[Slot] = set()
        for service in services:
            for slot in (*service.admission.slots, *service.admission.leaving):
                seen.add(slot)
                row = self._row(service, slot)
                _adjust(service, slot, row.elsewhere if row is not None else 0, now)
        needed = seen if self._shown or shared.others() else set()
        for slot in self._rows.keys() - needed:
            if (row := self._rows.pop(slot)) is not None:
                shared.drop(row)

    def close(self) -> None:
        self._shared.close()

    def _row(self, service: Service, slot: Slot) -> Row | None:
        if slot not in self._rows:
            replica = slot.replica
            name = f"{service.route.uid} {replica.id} {replica.revision} {replica.address}"
            self._rows[slot] = self._shared.row(name)
        return self._rows[slot]


def elsewhere(service: Service) -> dict[str, int]:
    """Of each revision: the requests at its replicas that another process holds, and tells of."""
    found: dict[str, int] = {}
    for slot in (*service.admission.slots, *service.admission.leaving):
        if slot.elsewhere:
            found[slot.replica.revision] = found.get(slot.replica.revision, 0) + slot.elsewhere
    return found


def _adjust(service: Service, slot: Slot, held: int, now: float) -> None:
    """``held`` requests of others are at the replica. It owes them nothing here."""
    more = held - slot.elsewhere
    slot.elsewhere += more
    slot.excused += more
    if more > 0:
        slot.in_flight += more
    for _ in range(-more):
        service.admission.release(slot, now, None)
