"""What to do next about a service. Pure: service, observation and time in, status and actions out.

While a node or the database cannot be asked there is no observation and no decision: nothing is stopped by silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from modelworks.kernel.decision import (
    Action,
    Decision,
    Emit,
    EnsureBucket,
    EnsureRun,
    EnsureSecret,
    ForgetRun,
    PublishRoute,
    RecordRevision,
    Release,
    Remove,
    RemoveObjects,
    Reserve,
    StopRun,
    WithdrawRoute,
)
from modelworks.kernel.events import Level
from modelworks.kernel.resource import Resource
from modelworks.products.mounts import log_uri, workspace_bucket
from modelworks.products.serving.autoscale import autoscaled, judged_alerts, told_alerts
from modelworks.products.serving.health import assess
from modelworks.products.serving.hung import GRACE as HUNG_GRACE
from modelworks.products.serving.observe import Observed
from modelworks.products.serving.plan import Plan, remembered
from modelworks.products.serving.queries import TOKEN, KnownToken
from modelworks.products.serving.record import Record, ServicePhase
from modelworks.products.serving.revisions import own_facts
from modelworks.products.serving.rollout import SETTLE, View, asked_lately, ended_lately, to_reserve
from modelworks.products.serving.routing import active_tokens, route, service_path
from modelworks.products.serving.runs import run_spec
from modelworks.products.serving.slots import HUNG, RECOVERY, serving
from modelworks.products.serving.views import DRAIN_DELAY, views

# Changes of runs and claims wake a service at once; this is for the one that was missed.
_PATIENCE = 30.0
# How often two revisions are compared while both answer.
_JUDGING = 2.0


def decide(resource: Resource, observed: Observed, now: datetime) -> Decision:
    """One pass over a service."""
    before, time = Record.of(resource.status), now.timestamp()
    if resource.deleting is not None:
        return _delete(resource, before, observed)
    scaled = autoscaled(resource, before, observed, time)
    plan, record = remembered(resource, replace(before, scale=scaled.scale), observed.traffic, time)
    if not observed.tokens:
        # The route needs the token's digest: the pass that sees it goes on from here.
        return Decision(_status(resource, before), (EnsureSecret(TOKEN),), wake_in=0.0)
    stable, canary = views(plan, before, observed, time)
    judged = judged_alerts(plan.declared.spec, record, scaled, observed.traffic, time)
    after = replace(assess(plan, stable, canary, record), alerts=judged.breaches)
    published = route(plan, stable, canary, after, active_tokens(observed.tokens, time))
    actions: list[Action] = _recorded(plan, observed)
    if published != observed.route:
        actions.append(PublishRoute(resource.ref.workspace, resource.ref.name, published))
    for view in (stable, canary):
        actions += (*_stops(view), *_releases(view), *_forgets(view))
    for view in (stable, canary):
        actions += _starts(view)
    actions += (*scaled.actions, *_told(before, after), *told_alerts(before, judged))
    waits = (_wake(plan, after, (stable, canary), observed.tokens), scaled.wake_in, judged.wake_in)
    wake_in = min((wait for wait in waits if wait is not None), default=None)
    return Decision(_status(resource, after), tuple(actions), wake_in)


def _recorded(plan: Plan, observed: Observed) -> list[Action]:
    """Revisions that are seen for the first time; what only the service as a whole has is no part of them."""
    services = [plan.declared, *([plan.canary] if plan.canary else [])]
    return [
        RecordRevision(service.revision, service.spec.dump(), own_facts(service.resolved))
        for service in services
        if service.revision not in observed.recorded
    ]


def _told(before: Record, after: Record) -> list[Action]:
    told: list[Action] = []
    for name in sorted(after.reversed.keys() - before.reversed.keys()):
        found = after.reversed[name]
        numbers = {"revision": name, **found.numbers}
        told.append(Emit("Reversed", f"revision {name} was taken back: {found.reason}", Level.WARNING, numbers))
    if after.phase != before.phase:
        warns = after.phase in (ServicePhase.FAILED, ServicePhase.DEGRADED)
        told.append(Emit(str(after.phase), after.message, Level.WARNING if warns else Level.NORMAL))
    return told


def _stops(view: View) -> list[Action]:
    """Whoever was drained long enough, or never served, and whoever is broken."""
    grace = view.service.spec.grace_period
    hung = {replica.key for replica in view.replicas if replica.slot.stopping == HUNG}
    reasons = {
        key: "Replaced"
        for key, since in view.draining.items()
        if view.now - since >= DRAIN_DELAY or not serving(view.runs[key])
    }
    for replica in view.replicas:
        if replica.slot.stopping and view.lives(replica.key):
            reasons[replica.key] = replica.slot.stopping
    return [
        StopRun(view.runs[key].node, key, min(grace, HUNG_GRACE) if key in hung else grace, reason)
        for key, reason in sorted(reasons.items())
    ]


def _releases(view: View) -> list[Action]:
    """The room of runs that ended, at the time they did, and of claims for replicas nobody wants any more."""
    released: list[Action] = []
    for key in sorted(view.claims):
        run = view.runs.get(key)
        if run is not None and run.phase.ended:
            released.append(Release(key, run.exited_at))
        elif run is None and key not in view.keys:
            released.append(Release(key))
    return released


def _forgets(view: View) -> list[Action]:
    """Directories of ended runs, but for the last one of each wanted replica: its log is what people look for."""
    last = {
        replica.service.key(replica.slot.ordinal, replica.slot.incarnation - 1)
        for replica in view.replicas
        if replica.slot.incarnation
    }
    return [
        ForgetRun(run.node, key)
        for key, run in sorted(view.runs.items())
        if run.phase.ended and key not in last and key not in view.claims and not ended_lately(run, view.now)
    ]


def _starts(view: View) -> list[Action]:
    starts: list[Action] = []
    placed = [
        (claim.node, replica)
        for replica in view.replicas
        if replica.key not in view.runs
        and (claim := view.claims.get(replica.key)) is not None
        and claim.node is not None
    ]
    if placed:
        starts.append(EnsureBucket(workspace_bucket(view.service.workspace)))
        starts += (
            EnsureRun(node, run_spec(replica.service, replica.key, replica.slot.halvings)) for node, replica in placed
        )
    reserve = to_reserve(view)
    if reserve:
        starts.append(Reserve(tuple(replica.service.claim(replica.key) for replica in reserve)))
    return starts


def _wake(plan: Plan, record: Record, views: Sequence[View], tokens: Mapping[str, KnownToken]) -> float | None:
    """When something is due that no notification tells: a retry, the end of a drain, the end of an old token."""
    now = views[0].now
    due = [token.until for token in tokens.values() if token.until is not None and token.until > now]
    for view in views:
        due += _due(view)
    waits = [max(at - now, 0.0) for at in due]
    if any(view.slots or any(not run.phase.ended for run in view.runs.values()) for view in views):
        waits.append(_PATIENCE)
    judged = record.replaced is not None or (plan.canary is not None and plan.canary.wanted)
    if judged and plan.declared.spec.traffic.reversal.enabled:
        waits.append(_JUDGING)
    return min(waits, default=None)


def _due(view: View) -> list[float]:
    due = [
        replica.slot.retry_at
        for replica in view.replicas
        if replica.slot.retry_at is not None and replica.key not in view.runs
    ]
    due += [slot.halved_at + RECOVERY for slot in view.slots if slot.halved_at is not None and view.slot_serves(slot)]
    due += [since + DRAIN_DELAY for since in view.draining.values() if view.now - since < DRAIN_DELAY]
    due += [run.exited_at + SETTLE for run in view.runs.values() if run.exited_at and ended_lately(run, view.now)]
    due += [c.created_at.timestamp() + SETTLE for c in view.claims.values() if asked_lately(c, view.now)]
    return due


def _status(resource: Resource, record: Record) -> dict[str, object]:
    return record.status(resource.generation, service_path(resource.ref.workspace, resource.ref.name))


def _delete(resource: Resource, before: Record, observed: Observed) -> Decision:
    """First the route, then the processes, then room and directories, then logs and the row."""
    ref, actions = resource.ref, list[Action]()
    live = [run for run in observed.runs if not run.phase.ended]
    if observed.route is not None:
        actions.append(WithdrawRoute(ref.workspace, ref.name))
    grace = float(resource.spec.get("grace_period", 30.0))
    actions += (StopRun(run.node, run.key, grace, "Deleted") for run in live)
    ended = {run.key: run for run in observed.runs if run.phase.ended}
    alive = {run.key for run in live}
    for claim in observed.claims:
        if claim.key not in alive:
            actions.append(Release(claim.key, ended[claim.key].exited_at if claim.key in ended else None))
    if not live:
        actions += (ForgetRun(run.node, run.key) for run in ended.values())
    if not (observed.runs or observed.claims or observed.route is not None):
        return Decision(resource.status, (RemoveObjects(log_uri(ref.workspace, resource.uid)), Remove()))
    message = f"waits for {len(live)} replica{'s' if len(live) != 1 else ''} to end" if live else "deleting"
    record = replace(before, phase=ServicePhase.DELETING, message=message, reason="", ready=0)
    return Decision(_status(resource, record), tuple(actions), _PATIENCE if live else 1.0)
