"""When a service's numbers call for a person: errors, latency above a stated bound, no more replicas to order. Pure.

An alert needs a breach that lasts. Latency alone is judged by the bound its owner stated and by nothing else: answers
of two kinds, fast and slow ones, are no fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field

from modelworks.kernel.quantities import Duration, format_duration
from modelworks.kernel.spec import Spec
from modelworks.kernel.traffic import UNAVAILABLE, Traffic

ERROR_RATE, LATENCY, MAX_REPLICAS = "AlertErrorRate", "AlertLatency", "AlertMaxReplicas"
_WINDOW = 60.0  # seconds that shares and percentiles are of
_FEWEST = 20  # answers in that time, for a share or a percentile to say anything
_LOOK = 10.0  # seconds between two looks while something breaches


class Alerts(Spec):
    """What is told of as a condition and an event, when it lasts for ``sustained``."""

    error_rate: float = Field(
        default=0.01, gt=0, le=1, description="share of 5xx answers, those for want of a replica included"
    )
    p99: Duration | None = Field(default=None, gt=0, le=3600, description="default: any latency is well")
    sustained: Duration = Field(default=120.0, ge=1, le=86_400)


@dataclass(frozen=True)
class Breach:
    """A number beyond its bound without a break since ``since`` (Unix seconds); ``firing``: for long enough."""

    since: float
    firing: bool
    message: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        return cls(float(document["since"]), bool(document["firing"]), str(document["message"]))

    def document(self) -> dict[str, Any]:
        return {"since": self.since, "firing": self.firing, "message": self.message}


@dataclass(frozen=True)
class Judged:
    """``breaches`` by the type of the alert; those of ``began`` and ``ended`` are told. ``wake_in``: the next look."""

    breaches: Mapping[str, Breach]
    began: tuple[str, ...]
    ended: tuple[str, ...]
    wake_in: float | None


def judge(
    alerts: Alerts, before: Mapping[str, Breach], traffic: Traffic, at_max: str, now: float, *, stopped: bool = False
) -> Judged:
    """One look. ``at_max`` says that more replicas are wanted than may be, and is empty when they are not. Of a service
    that is ``stopped``, who is refused is no error: its owner wants it so."""
    found = {MAX_REPLICAS: at_max} if at_max else {}
    lately = traffic.increase(_WINDOW, now)
    if lately is None:
        # Not known: what fires goes on, and nothing begins.
        found |= {name: breach.message for name, breach in before.items() if breach.firing}
    else:
        # Without a replica there are no answers of one, and every call is refused.
        refused = 0 if stopped else lately.refusals.get(UNAVAILABLE, 0)
        answered = lately.all.answered + refused
        rate, p99 = (lately.all.errors + refused) / max(answered, 1), lately.all.percentile(0.99) or 0.0
        if answered >= _FEWEST and rate > alerts.error_rate:
            found[ERROR_RATE] = f"{rate:.1%} of the answers are errors; the bound is {alerts.error_rate:.1%}"
        if lately.all.answered >= _FEWEST and alerts.p99 is not None and p99 > alerts.p99:
            bound = format_duration(alerts.p99)
            found[LATENCY] = f"the slowest hundredth of the answers takes {p99:.3g} s or longer; the bound is {bound}"
    after = {name: _lasting(alerts, before.get(name), said, now) for name, said in sorted(found.items())}
    began = tuple(name for name, b in after.items() if b.firing and not (name in before and before[name].firing))
    ended = tuple(name for name, b in sorted(before.items()) if b.firing and name not in after)
    return Judged(after, began, ended, _LOOK if after else None)


def _lasting(alerts: Alerts, before: Breach | None, said: str, now: float) -> Breach:
    if before is None:
        return Breach(round(now, 3), firing=False, message=said)
    if before.firing or now - before.since < alerts.sustained:
        return before  # its numbers are those of when it began: a status is not written for each look
    return Breach(before.since, firing=True, message=said)


def conditions(breaches: Mapping[str, Breach]) -> list[dict[str, Any]]:
    """The conditions of a status: of the alerts that fire."""
    return [
        {"type": name, "status": "True", "reason": name.removeprefix("Alert"), "message": breach.message}
        for name, breach in sorted(breaches.items())
        if breach.firing
    ]
