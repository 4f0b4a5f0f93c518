"""How each wanted replica goes on after what was seen of it: kept, stopped, or begun again later. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from modelworks.kernel.run import RunKey, RunObservation, RunPhase, RunReason
from modelworks.products.serving.moving import moved
from modelworks.products.serving.record import Record, Slot
from modelworks.products.serving.runs import Service

_LONGEST_BACK_OFF = 60.0
# A replica that lived so long had not failed to start: its next failure counts from one again.
_STABLE = 60.0
# One that ran out of memory and lived so long since is given twice as much again.
RECOVERY = 300.0
_MOST_HALVINGS = 14
HUNG = "Hung"


def back_off(failures: int) -> float:
    """Seconds before the incarnation that follows so many failures in a row: 1, 2, 4 … 60."""
    return min(2.0 ** (failures - 1), _LONGEST_BACK_OFF) if failures else 0.0


def current_slots(
    service: Service,
    record: Record,
    runs: Mapping[str, RunObservation],
    now: float,
    hung: Collection[str] = (),
    leaving: Collection[str] = (),
) -> list[Slot]:
    """The slots of the wanted replicas, each moved on by what was seen of its run; ``hung`` and ``leaving`` are keys of
    runs."""
    known = {slot.ordinal: slot for slot in _history(service.revision, record)}
    slots = []
    for ordinal in range(service.wanted):
        slot = known.get(ordinal) or first_slot(service, ordinal, runs.values())
        key = service.key(ordinal, slot.incarnation)
        slot = advanced(slot, runs.get(key), now, hung=key in hung)
        if key in leaving and not slot.stopping and key not in record.draining and serving(runs[key]):
            slot = moved(slot)
        slots.append(slot)
    return slots


def _history(revision: str, record: Record) -> tuple[Slot, ...]:
    """The slots of a revision as the pass before left them, whatever it was then."""
    if record.revision == revision:
        return record.slots
    if record.canary is not None and record.canary.revision == revision:
        return record.canary.slots
    former = record.revisions.get(revision)
    return former.slots if former else ()


def serving(run: RunObservation | None) -> bool:
    """The gateway may send requests to it."""
    return (
        run is not None
        and run.phase is RunPhase.RUNNING
        and run.ready
        and run.address is not None
        and run.reason not in (RunReason.UNHEALTHY, RunReason.NOT_READY)
    )


def first_slot(service: Service, ordinal: int, runs: Iterable[RunObservation]) -> Slot:
    """A slot without a history: of a revision seen before, it goes on with the run that lives, or after the last."""
    keys = ((RunKey.parse(run.key), run) for run in runs)
    found = [(key.incarnation, run) for key, run in keys if (key.attempt, key.ordinal) == (service.revision, ordinal)]
    if not found:
        return Slot(ordinal)
    incarnation, run = max(found, key=lambda item: item[0])
    return Slot(ordinal, incarnation + 1 if run.phase.ended else incarnation)


def advanced(slot: Slot, run: RunObservation | None, now: float, *, hung: bool = False) -> Slot:
    """The slot after what was seen of its run: another incarnation when that has ended."""
    if run is None:
        return slot
    if not run.phase.ended:
        if run.reason in (RunReason.UNHEALTHY, RunReason.NOT_READY):
            return replace(slot, stopping=slot.stopping or str(run.reason), cause=run.message or slot.cause)
        if hung and not slot.stopping:
            return replace(slot, stopping=HUNG, cause="it held requests and said nothing")
        return _living(slot, run, now) if serving(run) and not slot.stopping else slot
    if run.reason is RunReason.STOPPED and not slot.stopping:
        # Nobody asked for this stop: the platform went down under it. It begins again at once.
        return replace(slot, incarnation=slot.incarnation + 1, retry_at=None)
    ended = run.exited_at if run.exited_at is not None else now
    lived = ended - run.started_at if run.started_at is not None else 0.0
    failures = 1 if lived >= _STABLE else slot.failures + 1
    starved = run.reason is RunReason.OUT_OF_MEMORY
    # One that hung for the first time is replaced at once: its requests wait for nothing else.
    at_once = slot.stopping == HUNG and failures == 1
    return Slot(
        ordinal=slot.ordinal,
        incarnation=slot.incarnation + 1,
        failures=failures,
        retry_at=None if at_once else ended + back_off(failures),
        reason=slot.stopping or str(run.reason),
        cause=(slot.cause if slot.stopping else "") or run.message or _exit_text(run),
        served=slot.served,
        halvings=min(slot.halvings + 1, _MOST_HALVINGS) if starved else slot.halvings,
        halved_at=ended if starved else slot.halved_at,
    )


def _living(slot: Slot, run: RunObservation, now: float) -> Slot:
    """It serves: its failures are forgotten in time, and so is step by step that it ran out of memory."""
    started = run.started_at if run.started_at is not None else now
    if slot.halvings and slot.halved_at is not None and now - max(slot.halved_at, started) >= RECOVERY:
        left = slot.halvings - 1
        slot = replace(slot, halvings=left, halved_at=now if left else None)
    if now - started < _STABLE:
        return replace(slot, served=True)
    return Slot(slot.ordinal, slot.incarnation, served=True, halvings=slot.halvings, halved_at=slot.halved_at)


def _exit_text(run: RunObservation) -> str:
    if run.phase is RunPhase.LOST:
        return "its process is gone without an exit status"
    return f"exited with code {run.exit_code}" if run.exit_code is not None else str(run.reason or "ended")
