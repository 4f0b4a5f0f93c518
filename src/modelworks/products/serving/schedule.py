"""Replicas by the clock: which schedule's time came last, and when the next one comes. Pure.

The replicas of the schedule that fired last are the least there are, until another one fires. A schedule fires only
once it has been seen: one for New Year's Eve that is added in March does nothing before December. Times that the clock
leaves out in spring fire when they would have been; those that come twice in autumn may fire twice, to no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from modelworks.kernel.errors import FieldError
from modelworks.products.serving.scaling_spec import Autoscaling, Schedule


@dataclass(frozen=True)
class Floor:
    """``replicas`` at least, since the schedule ``name`` fired at ``at``; ``next_at`` is when any fires next.

    ``state`` is what to give to the next call.
    """

    replicas: int
    name: str
    at: float | None
    next_at: float | None
    state: Mapping[str, Any]


def floor(scaling: Autoscaling, state: Mapping[str, Any], now: float) -> Floor:
    """What the schedules ask for now. ``state`` is that of the call before, empty at first."""
    if not scaling.schedules:
        return Floor(0, "", None, None, {})
    before = state.get("seen", {})
    seen = {_identity(schedule): before.get(_identity(schedule), round(now, 3)) for schedule in scaling.schedules}
    fired = [
        (at, schedule)
        for schedule in scaling.schedules
        if (at := _latest(schedule, scaling.exclude_dates, now)) is not None and at > seen[_identity(schedule)]
    ]
    coming = [at for s in scaling.schedules if (at := _next(s, scaling.exclude_dates, now)) is not None]
    after = {"seen": seen}
    next_at = min(coming, default=None)
    if not fired:
        return Floor(0, "", None, next_at, after)
    # Of two at the same time the larger one.
    at, schedule = max(fired, key=lambda item: (item[0], item[1].replicas))
    return Floor(schedule.replicas, schedule.name, at, next_at, after)


def problems(scaling: Autoscaling, at: str) -> Sequence[FieldError]:
    """What is wrong with the schedules, each with its path below ``at``."""
    found = []
    for index, schedule in enumerate(scaling.schedules):
        path = f"{at}.schedules[{index}]"
        try:
            _zone(schedule.timezone)
        except (KeyError, ValueError, OSError):
            said = f"there is no time zone {schedule.timezone!r}; write one as Europe/Berlin, or UTC"
            found.append(FieldError(f"{path}.timezone", said))
        try:
            first = next(CronSim(_expression(schedule), datetime(2024, 1, 1, tzinfo=UTC)), None)
        except CronSimError as error:
            said = (
                f"not a cron expression: {schedule.schedule!r} ({error}); six fields are second, minute, hour,"
                " day of the month, month and day of the week, and five begin with the minute"
            )
            found.append(FieldError(f"{path}.schedule", said))
            continue
        if first is None:
            found.append(FieldError(f"{path}.schedule", f"{schedule.schedule!r} never comes"))
    return found


def _identity(schedule: Schedule) -> str:
    return f"{schedule.name} {schedule.schedule} {schedule.timezone} {schedule.replicas}"


def _expression(schedule: Schedule) -> str:
    # The cloud's schedules write "any day" as a question mark, as Quartz does.
    return schedule.schedule.replace("?", "*")


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _latest(schedule: Schedule, excluded: Sequence[date], now: float) -> float | None:
    """When it fired last, Unix seconds: a time that is now has come."""
    # Looking back begins before the moment it is given, so that is the second after.
    begin = datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=1)
    return _first(schedule, excluded, begin, reverse=True)


def _next(schedule: Schedule, excluded: Sequence[date], now: float) -> float | None:
    return _first(schedule, excluded, datetime.fromtimestamp(int(now), UTC), reverse=False)


def _first(schedule: Schedule, excluded: Sequence[date], begin: datetime, *, reverse: bool) -> float | None:
    """The first time from ``begin`` on that is on no excluded day."""
    zone = _zone(schedule.timezone)
    begin = begin.astimezone(zone)
    for _ in range(len(excluded) + 1):
        moment = next(CronSim(_expression(schedule), begin, reverse=reverse), None)
        if moment is None:
            return None
        if moment.date() not in excluded:
            return moment.timestamp()
        # On to the edge of that day, beyond which the next search begins.
        day = moment.date() if reverse else moment.date() + timedelta(days=1)
        begin = datetime.combine(day, datetime.min.time(), zone)
        if not reverse:
            begin -= timedelta(seconds=1)
    return None
