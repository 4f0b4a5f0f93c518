"""How a service is, in one phase and one line that a person can act on. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modelworks.kernel.quantities import format_duration
from modelworks.kernel.run import RunKey, RunObservation, RunPhase, RunReason
from modelworks.products.serving.older import revisions
from modelworks.products.serving.record import Record, ServicePhase, Slot
from modelworks.products.serving.rollout import View
from modelworks.products.serving.routing import routed
from modelworks.products.serving.slots import back_off, serving


def assess(view: View, before: Record) -> Record:
    """The record of this pass."""
    failing = view.failing()
    phase, message = _phase(view, before, failing)
    bad = failing and phase in (ServicePhase.FAILED, ServicePhase.DEGRADED)
    return replace(
        before,
        phase=phase,
        message=message,
        reason=_reason(failing[0]) if bad else "",
        revision=view.service.revision,
        slots=tuple(view.slots),
        revisions=revisions(view.service, view.slots, view.older),
        draining=dict(view.draining),
        replicas=tuple(_replica(run) for _, run in sorted(view.runs.items()) if not run.phase.ended),
        ready=len(routed(view)),
        last_lines=_last_lines(view, failing) or before.last_lines if bad else (),
    )


def _phase(view: View, before: Record, failing: list[Slot]) -> tuple[ServicePhase, str]:
    wanted, old = len(view.slots), view.old()
    ready = len(routed(view))
    fresh = sum(view.slot_serves(slot) for slot in view.slots)
    if wanted == 0:
        live = sum(not run.phase.ended for run in view.runs.values())
        return ServicePhase.STOPPED, f"stopping {live} replica{'s' if live > 1 else ''}" if live else "stopped"
    if failing and any(serving(run) for run in old):
        return (
            ServicePhase.DEGRADED,
            f"revision {view.service.revision} fails and an older one serves: {_cause(failing)}",
        )
    if ready >= wanted:
        if old:
            return ServicePhase.RUNNING, f"updating: {fresh} of {wanted} replicas replaced"
        return ServicePhase.RUNNING, f"{fresh} of {wanted} replicas ready"
    if ready:
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
        if run is not None and run.phase is RunPhase.PREPARING and run.message:
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
