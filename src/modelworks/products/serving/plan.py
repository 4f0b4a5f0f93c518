"""Which revisions should run now, and with what share of the requests: what the spec asks for, but for those taken
back. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from modelworks.kernel.resource import Resource
from modelworks.kernel.traffic import Traffic
from modelworks.products.serving.record import Beside, Record, Replaced, Reversed
from modelworks.products.serving.reversal import judge
from modelworks.products.serving.revisions import RESUMED, operated, overlaid, revision
from modelworks.products.serving.runs import Service
from modelworks.products.serving.spec import ServiceSpec
from modelworks.products.serving.wanted import wanted_replicas

_REMEMBERED = 20


@dataclass(frozen=True)
class Plan:
    """``stable`` serves; beside it ``canary`` gets ``weight`` percent of the requests and a copy of ``mirror`` percent.

    ``declared`` is the revision that the spec asks for, which is not ``stable``'s once it was taken back.
    """

    declared: Service
    stable: Service
    canary: Service | None = None
    weight: int = 0
    mirror: int = 0


def remembered(resource: Resource, before: Record, traffic: Traffic, now: float) -> tuple[Plan, Record]:
    """The plan, and the record with what it follows from: judged once more by the traffic."""
    declared = Service.of(resource)
    canary = _canary(declared, resource)
    record = _followed(resource, before, declared, canary)
    plan = _planned(resource, record, declared, canary)
    record = _began(plan, record, now)
    found = _judged(resource, plan, record, traffic, now)
    if not found:
        return plan, record
    record = replace(record, reversed={**record.reversed, **found})
    plan = _planned(resource, record, declared, canary)
    return plan, _began(plan, record, now)


def _planned(resource: Resource, record: Record, declared: Service, canary: Service | None) -> Plan:
    taken = record.reversed.get(declared.revision)
    stable = declared
    if taken is not None and taken.back is not None:
        stable = _as_before(declared, resource, taken.back)
    stable = replace(stable, wanted=wanted_replicas(stable.spec, record))
    wish = declared.spec.canary
    if canary is None or wish is None or canary.revision in (stable.revision, *record.reversed):
        return Plan(declared, stable)
    count = 0
    if stable.wanted:
        count = wish.replicas or max(1, math.ceil(stable.wanted * wish.weight / 100))
    return Plan(declared, stable, replace(canary, wanted=count), wish.weight, wish.mirror)


def _as_before(declared: Service, resource: Resource, back: Replaced) -> Service:
    spec = ServiceSpec.parse(operated(back.spec, resource.spec), at="spec")
    return replace(declared, spec=spec, resolved=back.resolved, revision=back.revision)


def _canary(declared: Service, resource: Resource) -> Service | None:
    facts = resource.resolved.get("canary")
    if declared.spec.canary is None or not facts:
        return None
    spec = ServiceSpec.parse(overlaid(resource.spec), at="spec.canary")
    return replace(declared, spec=spec, resolved=facts, revision=revision(spec, facts))


def _followed(resource: Resource, before: Record, declared: Service, canary: Service | None) -> Record:
    """The history with what the spec asks for now; what it no longer asks for, or was resumed, is not taken back."""
    resumed = _resumed(resource)
    kept = {
        name: found
        for name, found in before.reversed.items()
        if found.resumed == resumed
        and (
            (name == declared.revision and found.back is not None)
            or (canary is not None and name == canary.revision and found.back is None)
        )
    }
    history = before.history
    if history[-1:] != (declared.revision,):
        history = (*history, declared.revision)[-_REMEMBERED:]
    return replace(before, history=history, reversed=kept)


def _began(plan: Plan, record: Record, now: float) -> Record:
    """What is judged from when on: a revision that takes over, and a canary."""
    current, replaced = plan.stable.revision, record.replaced
    if record.revision and record.revision != current:
        old = record.revisions.get(record.revision)
        if record.revision in record.reversed:
            replaced = None
        elif old is not None:
            replaced = Replaced(record.revision, current, now, old.spec, old.resolved)
        elif replaced is not None and replaced.until is None:
            # It never served: the one before it still holds the service up.
            replaced = replace(replaced, by=current, since=now)
    over = replaced is not None and replaced.until is not None and now >= replaced.until
    if replaced is not None and (replaced.by != current or replaced.revision == current or over):
        replaced = None
    canary = record.canary
    if plan.canary is None:
        canary = None
    elif canary is None or canary.revision != plan.canary.revision:
        canary = Beside(plan.canary.revision, now)
    return replace(record, replaced=replaced, canary=canary)


def _judged(resource: Resource, plan: Plan, record: Record, traffic: Traffic, now: float) -> dict[str, Reversed]:
    """The revisions that are taken back now."""
    rule, resumed = plan.declared.spec.traffic.reversal, _resumed(resource)
    found: dict[str, Reversed] = {}
    replaced, beside = record.replaced, record.canary
    if replaced is not None and replaced.by == plan.declared.revision:
        verdict = judge(traffic, replaced.revision, replaced.by, rule, now, replaced.since)
        if verdict.worse:
            found[replaced.by] = Reversed(now, verdict.reason, verdict.numbers, resumed, replace(replaced, until=None))
    if beside is not None and plan.canary is not None and (plan.weight or plan.mirror):
        verdict = judge(traffic, plan.stable.revision, beside.revision, rule, now, beside.since)
        if verdict.worse:
            found[beside.revision] = Reversed(now, verdict.reason, verdict.numbers, resumed)
    return found


def _resumed(resource: Resource) -> int:
    return int(resource.resolved.get(RESUMED, 0))
