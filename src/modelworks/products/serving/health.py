"""How a service is, in one phase and one line that a person can act on. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modelworks.kernel.quantities import format_duration
from modelworks.kernel.run import RunKey, RunObservation, RunPhase, RunReason
from modelworks.products.serving.moving import told
from modelworks.products.serving.older import revisions
from modelworks.products.serving.plan import Plan
from modelworks.products.serving.record import Record, Replaced, ServicePhase, Slot
from modelworks.products.serving.rollout import View
from modelworks.products.serving.routing import routed
from modelworks.products.serving.slots import back_off, serving


def assess(plan: Plan, stable: View, canary: View, before: Record) -> Record:
    """The record of this pass."""
    failing = stable.failing()
    phase, message = _phase(plan, stable, canary, before)
    bad = phase in (ServicePhase.FAILED, ServicePhase.DEGRADED)
    squeezed = bool(stable.old()) and (stable.squeezed or before.squeezed)
    return replace(
        before,
        phase=phase,
        message=message,
        reason=_why(before, failing, canary.failing()) if bad else "",
        revision=stable.service.revision,
        slots=tuple(stable.slots),
        revisions=revisions(stable.service, stable.slots, stable.older),
        draining={**stable.draining, **canary.draining},
        replicas=tuple(
            _replica(run) for _, run in sorted({**stable.runs, **canary.runs}.items()) if not run.phase.ended
        ),
        ready=len(routed(stable)) + len(routed(canary)),
        last_lines=(_last_lines(stable, failing) or _last_lines(canary, canary.failing()) or before.last_lines)
        if bad
        else (),
        canary=replace(before.canary, slots=tuple(canary.slots)) if before.canary is not None else None,
        replaced=_watched(plan, stable, before),
        squeezed=squeezed,
        warnings=tuple(dict.fromkeys(run.message for run in _serving(stable, canary) if run.message)),
    )


def _serving(stable: View, canary: View) -> list[RunObservation]:
    """Who is ready. What they say then is for whoever looks at the service."""
    return [run for _, run in sorted({**stable.runs, **canary.runs}.items()) if serving(run)]


def _watched(plan: Plan, view: View, before: Record) -> Replaced | None:
    """What a new revision is judged against stays for a window after its last replica has gone."""
    replaced = before.replaced
    if replaced is None or replaced.until is not None or view.old():
        return replaced
    if not all(view.slot_serves(slot) for slot in view.slots):
        return replaced
    return replace(replaced, until=view.now + plan.declared.spec.traffic.reversal.window)


def _why(record: Record, failing: list[Slot], canary: list[Slot]) -> str:
    if failing:
        return _reason(failing[0])
    if record.reversed:
        return "Reversed"
    return _reason(canary[0]) if canary else ""


def _phase(plan: Plan, view: View, canary: View, before: Record) -> tuple[ServicePhase, str]:
    phase, message = _own_phase(view, before, len(routed(canary)))
    if not view.slots:
        if not plan.stable.spec.stopped and plan.stable.spec.autoscaling is not None:
            live = any(not run.phase.ended for run in view.runs.values())
            return (
                ServicePhase.IDLE,
                f"scaled to zero: a request starts a replica{'; replicas are stopping' if live else ''}",
            )
        return phase, message
    if phase not in (ServicePhase.RUNNING, ServicePhase.DEGRADED):
        return phase, message
    for name, found in before.reversed.items():
        serves = f"revision {plan.stable.revision} serves" if found.back is not None else "it gets no requests"
        kind = "revision" if found.back is not None else "the canary, revision"
        said = f"{kind} {name} was taken back: {found.reason}; {serves}"
        return ServicePhase.DEGRADED, f"{message}; {said}" if phase is ServicePhase.DEGRADED else said
    if plan.canary is not None:
        fails = canary.failing()
        if fails:
            return ServicePhase.DEGRADED, f"{message}; canary {plan.canary.revision}: {_cause(fails)}"
        ready = sum(canary.slot_serves(slot) for slot in canary.slots)
        mirrored = f" and a copy of {plan.mirror}%" if plan.mirror else ""
        message += f"; canary {plan.canary.revision}: {ready} of {len(canary.slots)} ready, {plan.weight}%{mirrored}"
    starved = [slot for slot in (*view.slots, *canary.slots) if slot.halvings]
    if starved and phase is ServicePhase.RUNNING:
        names = ", ".join(str(slot.ordinal) for slot in starved)
        many = "s" if len(starved) > 1 else ""
        message += f"; replica{many} {names} ran out of memory and get{'' if many else 's'} smaller batches"
    return phase, message


def _own_phase(view: View, before: Record, beside: int) -> tuple[ServicePhase, str]:
    """Of the stable revision; ``beside`` replicas of the canary are ready."""
    wanted, old, failing = len(view.slots), view.old(), view.failing()
    ready = len(routed(view))
    moves = view.leaving & {run.key for run in old}
    if moves and len(moves) == len(old) and ready >= wanted > 0:
        said = told(moves, view.claims, _waiting(view), _cause(failing) if failing else "")
        phase = ServicePhase.DEGRADED if failing else ServicePhase.RUNNING
        return phase, f"{min(ready, wanted)} of {wanted} replicas ready; {said}"
    fresh = sum(view.slot_serves(slot) for slot in view.slots)
    if wanted == 0:
        live = sum(not run.phase.ended for run in view.runs.values())
        return ServicePhase.STOPPED, f"stopping {live} replica{'s' if live > 1 else ''}" if live else "stopped"
    if failing and any(serving(run) for run in old):
        return (
            ServicePhase.DEGRADED,
            f"revision {view.service.revision} fails and an older one serves: {_cause(failing)}",
        )
    if old and ready:
        squeezed = view.squeezed or before.squeezed
        how = " one at a time, since there is no room for a surge" if squeezed else ""
        updating = f"updating{how}: {fresh} of {wanted} replicas replaced"
        if ready >= wanted - max(view.service.spec.rolling.max_unavailable, int(squeezed)):
            return ServicePhase.RUNNING, updating
        return ServicePhase.DEGRADED, f"{ready} of {wanted} replicas ready; {updating}"
    if ready >= wanted:
        return ServicePhase.RUNNING, f"{fresh} of {wanted} replicas ready"
    if ready or beside:
        rest = _cause(failing) if failing else _progress(view)
        message = f"{ready} of {wanted} replicas ready" + (f"; {rest}" if rest else "")
        was_up = before.phase in (ServicePhase.RUNNING, ServicePhase.DEGRADED)
        return ServicePhase.DEGRADED if failing or was_up else ServicePhase.STARTING, message
    if failing:
        return ServicePhase.FAILED, _cause(failing)
    waiting = _waiting(view)
    if waiting is not None:
        return ServicePhase.PENDING, waiting
    return ServicePhase.STARTING, _progress(view) or "starting"


def _reason(slot: Slot) -> str:
    if slot.failures >= 2 and slot.reason in (RunReason.FAILED, RunReason.COMPLETED):
        return "CrashLoop"
    return slot.stopping or slot.reason or str(RunReason.FAILED)


def _cause(failing: list[Slot]) -> str:
    """What is wrong with the worst replica, how often, and when it is tried again."""
    slot = max(failing, key=lambda slot: (slot.failures, -slot.ordinal))
    text = f"replica {slot.ordinal}: {slot.cause or 'failed'}"
    if slot.failures >= 2:
        text = f"{_reason(slot)}: {text}, {slot.failures} times in a row"
    return f"{text}; tried again after {format_duration(back_off(slot.failures))}" if slot.failures else text


def _waiting(view: View) -> str | None:
    """What the first claim without a node waits for; None when none does."""
    for slot in view.slots:
        claim = view.claims.get(view.key(slot))
        if claim is not None and claim.node is None:
            return claim.reason or "waits for capacity"
        if claim is None and view.run(slot) is None:
            return "waits for capacity"
    return None


def _progress(view: View) -> str:
    for slot in view.slots:
        run = view.run(slot)
        out_of_reach = run is not None and run.ready and run.address is None
        if run is not None and (run.phase is RunPhase.PREPARING or out_of_reach) and run.message:
            return f"replica {slot.ordinal}: {run.message}"
    waiting = _waiting(view)
    if waiting is not None:
        return waiting
    return "waits for the replica to answer its health check" if len(view.slots) == 1 else "replicas are starting"


def _last_lines(view: View, failing: list[Slot]) -> tuple[str, ...]:
    for slot in failing:
        run = view.runs.get(view.service.key(slot.ordinal, max(slot.incarnation - 1, 0)))
        if run is not None and run.last_lines:
            return run.last_lines
    return ()


def _replica(run: RunObservation) -> dict[str, Any]:
    key = RunKey.parse(run.key)
    return {
        "key": run.key,
        "ordinal": key.ordinal,
        "incarnation": key.incarnation,
        "revision": key.attempt,
        "node": run.node,
        "phase": str(run.phase),
        "ready": run.ready,
    }
