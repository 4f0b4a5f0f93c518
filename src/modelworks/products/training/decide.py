"""What to do next about a training job. Pure: job, observation and time in, status and actions out.

An attempt is a gang: its claims are placed together, its runs start together, and the first that fails ends all.
Another attempt begins only when nothing of the last one lives, so there are never two at once.
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
    Release,
    Remove,
    RemoveKey,
    RemoveObjects,
    Reserve,
    StopRun,
)
from modelworks.kernel.events import Level
from modelworks.kernel.quantities import format_duration
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import RunObservation, RunPhase, RunReason
from modelworks.products.mounts import log_uri
from modelworks.products.training.attempts import (
    attempt_record,
    back_off,
    failed_runs,
    may_repeat,
    time_left,
)
from modelworks.products.training.observe import Observed
from modelworks.products.training.record import JobPhase, Record, outputs_of, replica
from modelworks.products.training.runs import Job, run_spec

# Changes of runs and claims wake a job at once; this is for the one that was missed.
_PATIENCE = 30.0


def decide(resource: Resource, observed: Observed, now: datetime) -> Decision:
    """One pass over a job."""
    before = Record.of(resource.status)
    if resource.deleting is not None:
        return _delete(resource, before, observed)
    if before.phase.terminal:
        return Decision(resource.status, (*_stops(resource, observed, "Stopped"), *_releases(observed)))
    job, time = Job.of(resource), now.timestamp()
    record = replace(before, cancel_requested_at=before.cancel_requested_at or observed.cancel_requested_at)
    if record.phase is JobPhase.RETRYING and record.cancel_requested_at is None:
        if record.retry_at is not None and time < record.retry_at:
            return Decision(record.status(resource.generation), wake_in=record.retry_at - time)
        record = _next_attempt(record)
    after, actions = _advance(job, resource, record, observed, time)
    if after.phase != before.phase or after.attempt != before.attempt:
        warns = after.phase in (JobPhase.FAILED, JobPhase.RETRYING)
        actions = (*actions, Emit(str(after.phase), after.message, Level.WARNING if warns else Level.NORMAL))
    if job.spec.credentials and after.phase.terminal:
        actions = (*actions, RemoveKey())
    wake = None if after.phase.terminal else _PATIENCE
    if after.retry_at is not None:
        wake = max(after.retry_at - time, 0.0)
    return Decision(after.status(resource.generation), actions, wake)


def _next_attempt(record: Record) -> Record:
    return replace(
        record, phase=JobPhase.QUEUED, message="", attempt=record.attempt + 1, replicas=(), retry_at=None, last_lines=()
    )


def _advance(
    job: Job, resource: Resource, record: Record, observed: Observed, now: float
) -> tuple[Record, tuple[Action, ...]]:
    keys = job.keys(record.attempt)
    by_key = {run.key: run for run in observed.runs}
    mine = {rank: by_key[key] for rank, key in enumerate(keys) if key in by_key}
    record = _noted(record, mine)
    live = [run for run in observed.runs if not run.phase.ended]
    done = len(mine) == len(keys) and all(run.reason is RunReason.COMPLETED for run in mine.values())
    if done and all(run.phase is RunPhase.EXITED for run in mine.values()):
        return _succeed(record, mine), _releases(observed)
    if record.cancel_requested_at is not None:
        return _cancel(resource, record, mine, live, observed, now)
    strays = [run for run in live if run.key not in keys]
    if strays:
        waiting = replace(record, message=f"waits for {len(strays)} replicas of an earlier attempt to end")
        return waiting, _stops(resource, replace(observed, runs=tuple(strays)), "Superseded")
    missing = record.seen(record.attempt) - mine.keys()
    failed = failed_runs(mine)
    if failed or missing:
        if live:
            cause = f"replica {failed[0][0]} failed" if failed else f"replica {min(missing)} is lost"
            message = f"{cause}: stopping the others" if len(keys) > 1 else cause
            return replace(record, message=message), (
                *_stops(resource, observed, "PeerFailed"),
                *_releases(observed, keep=keys),
            )
        return _fail(job, record, mine, missing, now), _releases(observed)
    if len(mine) == len(keys):
        return _progress(record, mine, len(keys)), _releases(observed, keep=keys)
    return _start(job, record, mine, observed)


def _start(
    job: Job, record: Record, mine: dict[int, RunObservation], observed: Observed
) -> tuple[Record, tuple[Action, ...]]:
    """Reserve what is not reserved, and start the gang once all of it is placed."""
    keys = job.keys(record.attempt)
    claims = {claim.key: claim for claim in observed.claims}
    needed = [key for rank, key in enumerate(keys) if rank not in mine]
    releases = _releases(observed, keep=keys)
    if any(key not in claims for key in needed):
        message = record.message if record.phase is JobPhase.QUEUED and record.message else "waits for capacity"
        queued = replace(record, phase=JobPhase.QUEUED, message=message)
        return queued, (*releases, Reserve(job.claims(record.attempt)))
    waiting = [claims[key] for key in needed if claims[key].node is None]
    if waiting:
        reason = next((claim.reason for claim in waiting if claim.reason), "waits for capacity")
        return replace(record, phase=JobPhase.QUEUED, message=reason), releases
    left = time_left(job.spec.time_limit, record)
    epoch = f"a{record.attempt}" if job.spec.credentials else ""
    gang = job.gang(record.attempt, claims)
    runs = (
        EnsureRun(str(claims[keys[rank]].node), run_spec(job, record.attempt, rank, gang, time_left=left), epoch)
        for rank in range(len(keys))
        if rank not in mine
    )
    preparing = replace(record, phase=JobPhase.PREPARING, message=_preparing(job))
    return preparing, (*releases, EnsureBucket(job.bucket), *((EnsureKey(epoch),) if epoch else ()), *runs)


def _preparing(job: Job) -> str:
    count = job.spec.size
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


def _succeed(record: Record, mine: dict[int, RunObservation]) -> Record:
    attempt = attempt_record(record.attempt, mine, RunReason.COMPLETED, "completed")
    took = f" in {format_duration(attempt.seconds)}" if attempt.started is not None else ""
    return replace(
        record,
        phase=JobPhase.SUCCEEDED,
        reason=str(RunReason.COMPLETED),
        message=f"completed{took}",
        attempts=(*record.attempts, attempt),
        outputs=tuple(output for rank in sorted(mine) for output in outputs_of(mine[rank])),
        finished_at=attempt.ended,
        retry_at=None,
        last_lines=(),
    )


def _fail(job: Job, record: Record, mine: dict[int, RunObservation], missing: frozenset[int], now: float) -> Record:
    """All of a failed attempt has ended: another one, or the end of the job."""
    failed = failed_runs(mine)
    # Those that were stopped with a lost one are not the cause.
    if failed and not (missing and failed[0][1].reason is RunReason.STOPPED):
        rank, run = failed[0]
        reason, cause, lines = run.reason, run.message or _exit_text(run), run.last_lines
    else:
        rank, reason, cause, lines = min(missing), RunReason.LOST, "the node no longer knows of it", ()
    if job.spec.size > 1:
        cause = f"replica {rank}: {cause}"
    attempt = attempt_record(record.attempt, mine, reason, cause)
    attempts = (*record.attempts, attempt)
    record = replace(record, attempts=attempts, reason=str(reason), last_lines=tuple(lines))
    left = time_left(job.spec.time_limit, record)
    out_of_time = left is not None and left <= 0
    if out_of_time or not may_repeat(attempts, job.spec.retries):
        message = cause if len(attempts) == 1 else f"failed after {len(attempts)} attempts: {cause}"
        if out_of_time and reason is not RunReason.TIME_LIMIT:
            record, message = replace(record, reason=str(RunReason.TIME_LIMIT)), f"{message}; no time is left"
        return replace(record, phase=JobPhase.FAILED, message=message, finished_at=attempt.ended or now)
    delay = back_off(len(attempts))
    message = f"attempt {record.attempt} failed ({cause}); the next starts in {format_duration(delay)}"
    return replace(record, phase=JobPhase.RETRYING, message=message, retry_at=now + delay)


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
        return stopping, (*_stops(resource, observed, "Cancelled"), *_releases(observed))
    attempts = record.attempts
    if mine and all(attempt.n != record.attempt for attempt in attempts):
        attempts = (*attempts, attempt_record(record.attempt, mine, RunReason.STOPPED, "cancelled"))
    ended = max((run.exited_at for run in mine.values() if run.exited_at is not None), default=now)
    cancelled = replace(
        record,
        phase=JobPhase.CANCELLED,
        reason="Cancelled",
        message="cancelled on request",
        attempts=attempts,
        retry_at=None,
        finished_at=ended,
    )
    return cancelled, _releases(observed)


def _delete(resource: Resource, record: Record, observed: Observed) -> Decision:
    """Nothing of a deleted job but its output stays: first go its processes, then room, directories, logs and row."""
    live = [run for run in observed.runs if not run.phase.ended]
    status = dict(resource.status)
    if live:
        phase = record.phase if record.phase.terminal else JobPhase.CANCELLING
        status |= {"phase": str(phase), "message": f"deleting: waits for {len(live)} replicas to end"}
        return Decision(status, (*_stops(resource, observed, "Deleted"), *_releases(observed)), _PATIENCE)
    if observed.runs or observed.claims:
        forgets = (ForgetRun(run.node, run.key) for run in observed.runs)
        status |= {"message": "deleting"}
        return Decision(status, (*_releases(observed), *forgets), wake_in=1.0)
    return Decision(status, (RemoveObjects(log_uri(resource.ref.workspace, resource.uid)), Remove()))


def _stops(resource: Resource, observed: Observed, reason: str) -> tuple[Action, ...]:
    grace = float(resource.spec.get("grace_period", 30.0))
    return tuple(StopRun(run.node, run.key, grace, reason) for run in observed.runs if not run.phase.ended)


def _releases(observed: Observed, keep: list[str] | None = None) -> tuple[Action, ...]:
    """Give back the room of runs that ended, at the time they did, and of claims outside ``keep`` that have none."""
    runs = {run.key: run for run in observed.runs}
    released: list[Action] = []
    for claim in observed.claims:
        run = runs.get(claim.key)
        if run is None and claim.key not in (keep or ()):
            released.append(Release(claim.key))
        elif run is not None and run.phase.ended:
            released.append(Release(claim.key, run.exited_at))
    return tuple(released)


def _exit_text(run: RunObservation) -> str:
    if run.phase is RunPhase.LOST:
        return "its process is gone without an exit status"
    return f"exit code {run.exit_code}" if run.exit_code is not None else str(run.reason or "failed")
