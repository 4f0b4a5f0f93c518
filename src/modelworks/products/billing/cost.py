"""What occupations cost, over any span and by UTC day. Pure; time is counted in whole microseconds: sums are exact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from modelworks.kernel.spec import Spec

_MICROSECOND = timedelta(microseconds=1)
_HOUR = 3_600_000_000


class By(StrEnum):
    """What a cost is grouped by."""

    RESOURCE = "resource"
    DAY = "day"


@dataclass(frozen=True)
class Entry:
    """One row of the ledger. ``ended`` None: it goes on. Prices are per unit and hour."""

    workspace: str
    kind: str
    name: str
    item: str
    quantity: float
    unit: str
    price_per_hour: float
    began: datetime
    ended: datetime | None
    key: str = ""


class CostItem(Spec):
    """One line of a bill; ``quantity_hours`` is units × hours. Days are UTC."""

    workspace: str | None = None
    kind: str | None = None
    name: str | None = None
    day: date | None = None
    item: str
    unit: str
    quantity_hours: float
    amount: float


def microseconds_by_day(began: datetime, ended: datetime) -> Iterator[tuple[date, int]]:
    """The span cut at UTC midnights: ``(day, microseconds)``, each more than 0. Their sum is the span."""
    at, end = began.astimezone(UTC), ended.astimezone(UTC)
    while at < end:
        midnight = datetime.combine(at.date() + timedelta(days=1), datetime.min.time(), UTC)
        until = min(midnight, end)
        yield at.date(), (until - at) // _MICROSECOND
        at = until


def cost(entries: Iterable[Entry], by: By, since: datetime | None, until: datetime) -> list[CostItem]:
    """The bill of ``[since, until)``, sorted by what it is grouped by. What goes on counts up to ``until``."""
    quantities: dict[tuple[str, ...], float] = {}
    amounts: dict[tuple[str, ...], float] = {}
    for entry in entries:
        began = entry.began if since is None else max(entry.began, since)
        ended = until if entry.ended is None else min(entry.ended, until)
        for key, microseconds in _parts(entry, by, began, ended):
            units = entry.quantity * microseconds / _HOUR
            quantities[key] = quantities.get(key, 0.0) + units
            amounts[key] = amounts.get(key, 0.0) + units * entry.price_per_hour
    return [_item(by, key, quantities[key], amounts[key]) for key in sorted(quantities)]


def estimate(price_per_hour: float, replicas: int, seconds: float) -> float:
    """What ``replicas`` of one shape cost for so long."""
    return price_per_hour * replicas * seconds / 3600


def _parts(entry: Entry, by: By, began: datetime, ended: datetime) -> Iterator[tuple[tuple[str, ...], int]]:
    if by is By.DAY:
        for day, microseconds in microseconds_by_day(began, ended):
            yield (day.isoformat(), entry.item, entry.unit), microseconds
    elif ended > began:
        key = (entry.workspace, entry.kind, entry.name, entry.item, entry.unit)
        yield key, (ended - began) // _MICROSECOND


def _item(by: By, key: tuple[str, ...], quantity_hours: float, amount: float) -> CostItem:
    if by is By.DAY:
        day, item, unit = key
        return CostItem(day=date.fromisoformat(day), item=item, unit=unit, quantity_hours=quantity_hours, amount=amount)
    workspace, kind, name, item, unit = key
    return CostItem(
        workspace=workspace,
        kind=kind,
        name=name,
        item=item,
        unit=unit,
        quantity_hours=quantity_hours,
        amount=amount,
    )
