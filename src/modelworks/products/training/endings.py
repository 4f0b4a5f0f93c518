"""How an attempt ended and what follows: another one, now or later, or the end of the job. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelworks.kernel.decision import Action, Reserve
from modelworks.kernel.quantities import format_duration
from modelworks.kernel.run import RunObservation, RunPhase, RunReason
from modelworks.products.kind import ClaimView
from modelworks.products.training import elastic, watchdog
from modelworks.products.training.attempts import (
    attempt_record,
    back_off,
    failed_runs,
    failing,
    followed,
    may_repeat,
    time_left,
)
from modelworks.products.training.notices import covers
from modelworks.products.training.observe import Observed
from modelworks.products.training.record import JobPhase, Record
from modelworks.products.training.runs import Job
from modelworks.products.training.teardown import releases


def cause_of(
    mine: Mapping[int, RunObservation], missing: frozenset[int]
) -> tuple[int, RunReason, str, tuple[str, ...]]:
    """The first replica that failed: its rank, the reason, what to say of it, and its last lines."""
    failed = failed_runs(mine)
    # Those that were stopped with a lost one, or looked for it in vain, are not the cause.
    if failed and not (missing and (followed(failed[0][1]) or failed[0][1].reason is RunReason.PREFLIGHT_FAILED)):
        rank, run = failed[0]
        return rank, run.reason, run.message or _exit_text(run), run.last_lines
    if missing:
        return min(missing), RunReason.LOST, "the node no longer knows of it", ()
    rank, run = min((item for item in mine.items() if failing(item[1])), key=lambda item: item[1].exited_at or 0.0)
    return rank, run.reason, _exit_text(run), ()


def told_of(mine: Mapping[int, RunObservation], missing: frozenset[int]) -> tuple[RunReason, str, tuple[str, ...]]:
    """Why the attempt is over, in words that name the replica, and that one's last lines."""
    rank, reason, cause, lines = cause_of(mine, missing)
    if reason is RunReason.STALLED:
        # That it was stopped says nothing: what it was stopped for does.
        return reason, watchdog.ending(mine), lines
    return reason, f"replica {rank}: {cause}" if len(mine) + len(missing) > 1 else cause, lines


def end_attempt(
    job: Job,
    record: Record,
    mine: Mapping[int, RunObservation],
    missing: frozenset[int],
    observed: Observed,
    now: float,
) -> tuple[Record, tuple[Action, ...]]:
    """All of an attempt that did not succeed has ended: another one, or the end of the job."""
    notice = record.notice
    if notice is not None and covers(notice, mine):
        reason, cause, lines = RunReason(notice.reason), notice.message, tuple[str, ...]()
    else:
        reason, cause, lines = told_of(mine, missing)
    attempt = attempt_record(record.attempt, mine, reason, cause, now=now, replicas=record.size)
    if len(mine) < (record.size or job.spec.size):
        attempt = replace(attempt, node="")  # who looked in vain for a replica that nobody had begun has found nothing
    attempts = (*record.attempts, attempt)
    record = replace(record, attempts=attempts, reason=str(reason), last_lines=tuple(lines))
    left = time_left(job.spec.time_limit, record)
    out_of_time = left is not None and left <= 0
    if out_of_time or not may_repeat(attempts, job.spec):
        message = cause if len(attempts) == 1 else f"failed after {len(attempts)} attempts: {cause}"
        if out_of_time and reason is not RunReason.TIME_LIMIT:
            record, message = replace(record, reason=str(RunReason.TIME_LIMIT)), f"{message}; no time is left"
        elif reason is RunReason.PREEMPTED:
            message = f"{message}; it may be preempted {job.spec.preemptions} times (preemptions)"
        failed = replace(record, phase=JobPhase.FAILED, message=message, finished_at=attempt.ended or now, notice=None)
        return failed, releases(observed)
    heirs = _heirs(job, record, reason, observed)
    if heirs or reason in (RunReason.PREEMPTED, RunReason.RESIZED):
        return _go_on(job, record, cause, heirs, observed)
    delay = back_off(attempts)
    message = f"attempt {record.attempt} failed ({cause}); the next starts in {format_duration(delay)}"
    retrying = replace(record, phase=JobPhase.RETRYING, message=message, retry_at=now + delay, notice=None)
    return retrying, releases(observed)


def _heirs(job: Job, record: Record, reason: RunReason, observed: Observed) -> list[ClaimView]:
    runs = {run.key: run for run in observed.runs}
    return elastic.heirs(job, record, observed.claims, runs) if reason in elastic.HANDED_ON else []


def _go_on(
    job: Job, record: Record, cause: str, heirs: list[ClaimView], observed: Observed
) -> tuple[Record, tuple[Action, ...]]:
    """The next attempt is queued at once; that of an elastic job takes over the room that is left, if it is enough."""
    runs, ended = {run.key: run for run in observed.runs}, record.attempt
    kept = {claim.key for claim in heirs}
    rest = replace(observed, claims=tuple(claim for claim in observed.claims if claim.key not in kept))
    record = replace(next_attempt(record), size=len(heirs) or None)
    if heirs:
        message = f"attempt {ended} ended ({cause}); the next goes on with {len(heirs)} replicas"
        return replace(record, message=message), (
            *releases(rest),
            *elastic.hand_on(job, record.attempt, heirs, runs),
        )
    message = f"attempt {ended} ended ({cause}); queued again"
    return replace(record, message=message), (*releases(rest), Reserve(job.claims(record.attempt)))


def next_attempt(record: Record) -> Record:
    return replace(
        record,
        phase=JobPhase.QUEUED,
        message="",
        attempt=record.attempt + 1,
        replicas=(),
        retry_at=None,
        last_lines=(),
        notice=None,
        size=None,
    )


def _exit_text(run: RunObservation) -> str:
    if run.phase is RunPhase.LOST:
        return "its process is gone without an exit status"
    if run.signal is not None:
        return f"killed by signal {run.signal}"
    return f"exit code {run.exit_code}" if run.exit_code is not None else str(run.reason or "failed")
