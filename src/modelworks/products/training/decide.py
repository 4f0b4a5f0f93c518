"""What to do next about a training job. Pure: job, observation and time in, status and actions out.

An attempt is a gang: its claims are placed together, its runs start together, and the first that fails ends all. One
whose room is wanted back ends by a notice, and another goes on from its checkpoint. Another attempt begins only when
nothing of the last one lives, so there are never two at once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from modelworks.kernel.decision import (
    Action,
    Decision,
    Emit,
    EnsureBucket,
    EnsureKey,
    EnsureRun,
    ForgetRun,
    Remove,
    RemoveKey,
    RemoveObjects,
    Reserve,
)
from modelworks.kernel.events import Level
from modelworks.kernel.quantities import format_duration
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import FINISHED, RunObservation, RunPhase, RunReason
from modelworks.products.mounts import log_uri
from modelworks.products.training import account, elastic, publish, watchdog
from modelworks.products.training.attempts import (
    attempt_record,
    avoided,
    failed_runs,
    failing,
    time_left,
)
from modelworks.products.training.endings import end_attempt, next_attempt, told_of
from modelworks.products.training.gang import lasting
from modelworks.products.training.notices import describe, grace, noticed
from modelworks.products.training.observe import Observed
from modelworks.products.training.record import JobPhase, Record, replica
from modelworks.products.training.runs import Job, run_spec
from modelworks.products.training.teardown import grace_period, releases, stops

# Changes of runs and claims wake a job at once; this is for the one that was missed.
_PATIENCE = 30.0
# What is left of a gang after a failure computes nothing of use, and holds its room.
_PEER_GRACE = 5.0


def decide(resource: Resource, observed: Observed, now: datetime) -> Decision:
    """One pass over a job."""
    before = Record.of(resource.status)
    if resource.deleting is not None:
        return _delete(resource, before, observed)
    if before.phase.terminal:
        return Decision(resource.status, (*stops(observed, "Stopped", grace_period(resource)), *releases(observed)))
    job, time = Job.of(resource), now.timestamp()
    record = replace(before, cancel_requested_at=before.cancel_requested_at or observed.cancel_requested_at)
    if record.phase is JobPhase.RETRYING and record.cancel_requested_at is None:
        if record.retry_at is not None and time < record.retry_at:
            return Decision(record.status(resource.generation), wake_in=record.retry_at - time)
        record = next_attempt(record)
    after, actions = _advance(job, resource, record, observed, time)
    after, told = account.keep(job, before, after, observed, time)
    actions = (*actions, *told)
    if after.phase != before.phase or after.attempt != before.attempt:
        warns = after.phase in (JobPhase.FAILED, JobPhase.RETRYING, JobPhase.STALLED)
        what = after.attempts[-1].reason if _goes_on(before, after) else str(after.phase)
        actions = (*actions, Emit(what, after.message, Level.WARNING if warns else Level.NORMAL))
    if job.spec.credentials and after.phase.terminal:
        actions = (*actions, RemoveKey())
    wake = None if after.phase.terminal else _PATIENCE
    if after.retry_at is not None:
        wake = max(after.retry_at - time, 0.0)
    elif _goes_on(before, after) or after.size != before.size:
        wake = 0.0  # nothing has to happen in between
    elif after.notice is None and (due := elastic.grows_at(job, after, observed.runs)) is not None and due > time:
        wake = min(due - time, _PATIENCE)
    if wake is not None and (money := account.wakes_in(job, after, observed, time)) is not None:
        wake = min(wake, money)
    return Decision(after.status(resource.generation), actions, wake)


def _goes_on(before: Record, after: Record) -> bool:
    """Whether an attempt has ended in this pass, and the next begins at once."""
    return len(after.attempts) > len(before.attempts) and after.attempt > before.attempt


def _advance(
    job: Job, resource: Resource, record: Record, observed: Observed, now: float
) -> tuple[Record, tuple[Action, ...]]:
    keys = job.keys(record.attempt)[: record.size]
    by_key = {run.key: run for run in observed.runs}
    claims = {claim.key: claim for claim in observed.claims}
    mine = record.completed(record.attempt) | {rank: by_key[key] for rank, key in enumerate(keys) if key in by_key}
    record = _noted(record, mine)
    live = [run for run in observed.runs if not run.phase.ended]
    working = [run for rank, run in mine.items() if not lasting(job.spec, rank)]
    done = len(mine) == len(keys) and all(run.reason is RunReason.COMPLETED for run in working)
    if done and all(run.phase is RunPhase.EXITED for run in working):
        if any(run.key in keys for run in live):
            return _dismiss(resource, record, live, observed)
        actions = (*releases(observed), *publish.publications(job, record.attempt, mine))
        return _succeed(job, record, mine, now), actions
    if record.cancel_requested_at is not None:
        return _cancel(resource, record, mine, live, observed, now)
    strays = [run for run in live if run.key not in keys]
    if strays:
        waiting = replace(record, message=f"waits for {len(strays)} replicas of an earlier attempt to end")
        return waiting, stops(replace(observed, runs=tuple(strays)), "Superseded", grace_period(resource))
    missing = record.seen(record.attempt) - mine.keys()
    asked = noticed(record.notice, [claims[key] for key in keys if key in claims], now)
    record = replace(record, notice=account.noticed(job, record.notice, asked, observed, now) if mine else asked)
    further: tuple[Action, ...] = ()
    if record.notice is None and len(mine) == len(keys) and all(run in live for run in mine.values()):
        notice, further = elastic.grow(job, record, mine, claims, now)
        record = replace(record, notice=notice)
    failed = failed_runs(mine)
    if failed or missing or record.notice or any(map(failing, mine.values())):
        if live:
            return _stopping(job, record, mine, missing, observed, now)
        if not mine and not missing:
            return _queue_again(job, record, observed)
        return end_attempt(job, record, mine, missing, observed, now)
    if len(mine) == len(keys):
        going, watched = watchdog.watch(job.spec, record.phase, _progress(record, mine, len(keys)), mine)
        return going, (*releases(observed, keep=job.keys(record.attempt)), *further, *watched)
    if not mine and (broke := account.out_of_money(job, record, observed, now)):
        reason = str(RunReason.BUDGET)
        return replace(record, phase=JobPhase.FAILED, reason=reason, message=broke, finished_at=now), releases(observed)
    if not mine and (dear := account.waits_for_price(job)):
        return replace(record, phase=JobPhase.QUEUED, message=dear, size=None), releases(observed)
    return _start(job, record, mine, observed)


def _stopping(
    job: Job,
    record: Record,
    mine: dict[int, RunObservation],
    missing: frozenset[int],
    observed: Observed,
    now: float,
) -> tuple[Record, tuple[Action, ...]]:
    """The attempt is over, and some of its replicas live: by a notice, or since one of them failed."""
    keep = job.keys(record.attempt)
    # Whoever goes on with fewer or more keeps the room of those that ended first, until all have.
    hold = frozenset(claim.key for claim in observed.claims if claim.evict_at is None) if job.spec.elastic else None
    given_back = releases(observed, keep=keep, hold=hold or frozenset())
    notice = record.notice
    if notice is not None:
        left = grace(notice, job.spec.notice, now)
        message = describe(notice, job.spec.notice, now)
        stopping = replace(record, phase=JobPhase.PREEMPTING, message=message)
        return stopping, (*stops(observed, notice.reason, left, notice.message), *given_back)
    _, cause, _ = told_of(mine, missing)
    message = f"{cause}; stopping the others" if len(mine) + len(missing) > 1 else cause
    others = tuple(run for run in observed.runs if run.phase in (RunPhase.PREPARING, RunPhase.RUNNING))
    ended = stops(replace(observed, runs=others), RunReason.PEER_FAILED, min(_PEER_GRACE, job.spec.grace_period))
    return replace(record, message=message), (*ended, *given_back)


def _dismiss(
    resource: Resource, record: Record, live: list[RunObservation], observed: Observed
) -> tuple[Record, tuple[Action, ...]]:
    """Whoever worked has finished; those who only served them are ended."""
    message = f"finished: stopping {len(live)} replica{'s' if len(live) > 1 else ''} that served the others"
    ending = replace(record, phase=JobPhase.FINALIZING, message=message)
    return ending, (*stops(observed, FINISHED, grace_period(resource)), *releases(observed))


def _queue_again(job: Job, record: Record, observed: Observed) -> tuple[Record, tuple[Action, ...]]:
    """The room is wanted back before anything was started in it."""
    message = f"{record.notice.message}; queued again" if record.notice else record.message
    queued = replace(record, phase=JobPhase.QUEUED, message=message, notice=None, size=None)
    return queued, (*releases(observed), Reserve(job.claims(record.attempt, avoided(record))))


def _start(
    job: Job, record: Record, mine: dict[int, RunObservation], observed: Observed
) -> tuple[Record, tuple[Action, ...]]:
    """Reserve what is not reserved, and start the gang once all of it is placed."""
    keys = job.keys(record.attempt)
    claims = {claim.key: claim for claim in observed.claims}
    if job.spec.elastic and not mine and record.size is None:
        size = elastic.begun_size(job, record.attempt, claims)
        if size is not None:
            # Written down before anything starts: who repeats this pass may find room for others.
            record = replace(record, size=size)
            return record, releases(observed, keep=keys[:size])
    required = keys[: record.size or (job.spec.elastic.min if job.spec.elastic else None)]
    needed = [key for rank, key in enumerate(required) if rank not in mine]
    given_back = releases(observed, keep=keys)
    if any(key not in claims for key in needed):
        message = record.message if record.phase is JobPhase.QUEUED and record.message else "waits for capacity"
        queued = replace(record, phase=JobPhase.QUEUED, message=message, size=record.size if mine else None)
        wanted = job.claims(record.attempt, avoided(record))[: record.size if mine else None]
        return queued, (*given_back, Reserve(wanted))
    waiting = [claims[key] for key in needed if claims[key].node is None]
    if waiting:
        reason = next((claim.reason for claim in waiting if claim.reason), "waits for capacity")
        return replace(record, phase=JobPhase.QUEUED, message=reason), given_back
    keys = required
    left = time_left(job.spec.time_limit, record)
    epoch = f"a{record.attempt}" if job.spec.credentials else ""
    gang = job.gang(record.attempt, {key: claims[key] for key in keys if key in claims})
    runs = (
        EnsureRun(str(claims[keys[rank]].node), run_spec(job, record.attempt, rank, gang, time_left=left), epoch)
        for rank in range(len(keys))
        if rank not in mine
    )
    preparing = replace(record, phase=JobPhase.PREPARING, message=_preparing(len(keys)))
    return preparing, (*given_back, EnsureBucket(job.bucket), *((EnsureKey(epoch),) if epoch else ()), *runs)


def _preparing(count: int) -> str:
    return "starting" if count == 1 else f"starting {count} replicas"


def _noted(record: Record, mine: dict[int, RunObservation]) -> Record:
    """The record with what is seen of the attempt's runs; a replica that is gone stays noted, as lost."""
    known = {int(line["ordinal"]): line for line in record.replicas if line["attempt"] == record.attempt}
    lines = known | {rank: replica(record.attempt, rank, run) for rank, run in mine.items()}
    started = [run.started_at for run in mine.values() if run.started_at is not None]
    return replace(
        record,
        replicas=tuple(lines[rank] for rank in sorted(lines)),
        started_at=record.started_at if record.started_at is not None else min(started, default=None),
    )


def _progress(record: Record, mine: dict[int, RunObservation], count: int) -> Record:
    """All replicas exist, none failed, not all ended."""
    going = {rank: run for rank, run in mine.items() if not run.phase.ended}
    ended = count - len(going)
    record = replace(record, reason="")  # that of the attempt before: this one goes on
    preparing = {rank: run for rank, run in going.items() if run.phase is RunPhase.PREPARING}
    if preparing:
        rank, run = next(iter(sorted(preparing.items())))
        prefix = f"replica {rank}: " if count > 1 else ""
        return replace(record, phase=JobPhase.PREPARING, message=f"{prefix}{run.message or 'starting'}")
    if all(run.phase is RunPhase.FINALIZING for run in going.values()):
        note = next((run.message for run in going.values() if run.message), "committing the outputs")
        return replace(record, phase=JobPhase.FINALIZING, message=note)
    message = f"attempt {record.attempt}" if record.attempt > 1 else "running"
    if count > 1:
        message = f"{len(going)} of {count} replicas run" + (f", {ended} finished" if ended else "")
    return replace(record, phase=JobPhase.RUNNING, message=message)


def _succeed(job: Job, record: Record, mine: dict[int, RunObservation], now: float) -> Record:
    attempt = attempt_record(record.attempt, mine, RunReason.COMPLETED, "completed", now=now, replicas=record.size)
    took = f" in {format_duration(attempt.seconds)}" if attempt.started is not None else ""
    return replace(
        record,
        phase=JobPhase.SUCCEEDED,
        reason=str(RunReason.COMPLETED),
        message=f"completed{took}",
        attempts=(*record.attempts, attempt),
        outputs=publish.published(job, record.attempt, mine),
        finished_at=attempt.ended,
        retry_at=None,
        last_lines=(),
        notice=None,
    )


def _cancel(
    resource: Resource,
    record: Record,
    mine: dict[int, RunObservation],
    live: list[RunObservation],
    observed: Observed,
    now: float,
) -> tuple[Record, tuple[Action, ...]]:
    if live:
        message = f"stopping {len(live)} replica{'s' if len(live) > 1 else ''}"
        stopping = replace(record, phase=JobPhase.CANCELLING, message=message, retry_at=None)
        return stopping, (*stops(observed, "Cancelled", grace_period(resource)), *releases(observed))
    attempts = record.attempts
    if mine and all(attempt.n != record.attempt for attempt in attempts):
        attempts = (*attempts, attempt_record(record.attempt, mine, RunReason.STOPPED, "cancelled", now=now))
    ended = max((run.exited_at for run in mine.values() if run.exited_at is not None), default=now)
    cancelled = replace(
        record,
        phase=JobPhase.CANCELLED,
        reason="Cancelled",
        message="cancelled on request",
        attempts=attempts,
        retry_at=None,
        finished_at=ended,
        notice=None,
    )
    return cancelled, releases(observed)


def _delete(resource: Resource, record: Record, observed: Observed) -> Decision:
    """Nothing of a deleted job but its output stays: first go its processes, then room, directories, logs and row."""
    live = [run for run in observed.runs if not run.phase.ended]
    status = dict(resource.status)
    if live:
        phase = record.phase if record.phase.terminal else JobPhase.CANCELLING
        status |= {"phase": str(phase), "message": f"deleting: waits for {len(live)} replicas to end"}
        return Decision(status, (*stops(observed, "Deleted", grace_period(resource)), *releases(observed)), _PATIENCE)
    if observed.runs or observed.claims:
        forgets = (ForgetRun(run.node, run.key) for run in observed.runs)
        status |= {"message": "deleting"}
        return Decision(status, (*releases(observed), *forgets), wake_in=1.0)
    unwanted = publish.leftovers(resource.uid, resource.resolved)
    return Decision(status, (RemoveObjects(log_uri(resource.ref.workspace, resource.uid)), *unwanted, Remove()))
