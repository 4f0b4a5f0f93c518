"""What was seen of a service, parted into its own revision (with those it replaces) and its canary. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from modelworks.kernel.run import RunKey, RunObservation
from modelworks.products.kind import ClaimView
from modelworks.products.serving.hung import hung_replicas
from modelworks.products.serving.moving import leaving
from modelworks.products.serving.observe import Observed
from modelworks.products.serving.older import Replica, older_replicas
from modelworks.products.serving.plan import Plan
from modelworks.products.serving.record import Record, Slot
from modelworks.products.serving.rollout import View, hand_over
from modelworks.products.serving.runs import Service
from modelworks.products.serving.slots import current_slots

T = TypeVar("T")

DRAIN_DELAY = 1.0
"""Seconds between a route without a replica and its SIGTERM, so that no gateway still chooses it."""


def views(plan: Plan, before: Record, observed: Observed, now: float) -> tuple[View, View]:
    """Of the stable revision and of the canary; the latter is empty when there is none."""
    runs = {run.key: run for run in observed.runs}
    claims = {claim.key: claim for claim in observed.claims}
    hung = hung_replicas(observed.traffic, runs, _slots(plan.stable.uid, before), before.draining, now)
    beside = {plan.canary.revision} if plan.canary is not None else set()
    dropped = _dropped(plan, before)
    draining = dict(before.draining) | {
        key: now
        for key, run in runs.items()
        # A canary that ends gets nothing more, whatever the stable revision is at.
        if _revision(key) in dropped and not run.phase.ended and key not in before.draining
    }
    # What was the service's own and is its canary now is nobody's predecessor.
    former = replace(before, revisions=_without(before.revisions, beside, str))
    own_runs, own_claims = _without(runs, beside, _revision), _without(claims, beside, _revision)
    older = older_replicas(plan.stable, former, own_runs, now, hung)
    stable = _view(plan.stable, before, draining, own_runs, own_claims, now, hung, older)
    if plan.canary is None:
        return stable, View(plan.stable, (), {}, {}, {}, now)
    runs, claims = _without(runs, own_runs, str), _without(claims, own_claims, str)
    return stable, _view(plan.canary, before, draining, runs, claims, now, hung)


def _slots(uid: str, before: Record) -> dict[str, Slot]:
    """Every slot of the pass before, by the key of its run."""
    found = {before.revision: before.slots}
    found |= {name: former.slots for name, former in before.revisions.items() if name != before.revision}
    if before.canary is not None:
        found[before.canary.revision] = before.canary.slots
    return {
        str(RunKey(uid, name, slot.ordinal, slot.incarnation)): slot for name, slots in found.items() for slot in slots
    }


def _dropped(plan: Plan, before: Record) -> set[str]:
    """The canary of the pass before, when it is none any more and was not made the service's own."""
    if before.canary is None:
        return set()
    current = {plan.stable.revision, *([plan.canary.revision] if plan.canary else [])}
    return {before.canary.revision} - current


def _view(
    service: Service,
    before: Record,
    draining: Mapping[str, float],
    runs: Mapping[str, RunObservation],
    claims: Mapping[str, ClaimView],
    now: float,
    hung: Collection[str],
    older: tuple[Replica, ...] = (),
) -> View:
    going = leaving(runs, claims)
    slots = current_slots(service, before, runs, now, hung, going)
    live = {key for key, run in runs.items() if not run.phase.ended}
    wanted = {service.key(slot.ordinal, slot.incarnation) for slot in slots}
    own = {
        key: since
        for key, since in draining.items()
        # A replica that is wanted again before it was told to stop goes on.
        if key in live and (key not in wanted or now - since >= DRAIN_DELAY)
    }
    gone = frozenset(key for key in going - wanted if _revision(key) == service.revision)
    view = View(service, slots, runs, claims, own, now, older, leaving=gone)
    handed = hand_over(view)
    return replace(view, draining=own | dict.fromkeys(handed.gone, now), older=handed.older, squeezed=handed.squeezed)


def _without(found: Mapping[str, T], left_out: Collection[str], by: Callable[[str], str]) -> dict[str, T]:
    return {key: one for key, one in found.items() if by(key) not in left_out}


def _revision(key: str) -> str:
    return RunKey.parse(key).attempt
