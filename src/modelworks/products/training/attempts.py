"""When an attempt counts as failed, whose fault it was, and when the next may begin. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelworks.kernel.run import RunObservation, RunPhase, RunReason
from modelworks.products.training.record import Attempt, Record

INFRASTRUCTURE_RETRIES = 3
"""Attempts that end by the platform's fault are repeated so often without costing one of the job's own retries."""

# A stop nobody asked for is the platform going down; a store that is away is not the workload's fault either.
_INFRASTRUCTURE = frozenset({RunReason.LOST, RunReason.STOPPED, RunReason.STORE_UNREACHABLE})
# Another attempt would end the same way: time is up, or the packages cannot be had.
_FINAL = frozenset({RunReason.TIME_LIMIT, RunReason.ENVIRONMENT_FAILED})
_LONGEST_BACK_OFF = 60.0


def failed_runs(mine: Mapping[int, RunObservation]) -> list[tuple[int, RunObservation]]:
    """The ranks that ended badly, the cause first: what failed by itself before what was stopped with it."""
    failed = [
        (rank, run)
        for rank, run in mine.items()
        if run.phase is RunPhase.LOST or (run.phase is RunPhase.EXITED and run.reason is not RunReason.COMPLETED)
    ]
    return sorted(failed, key=lambda item: (item[1].reason is RunReason.STOPPED, item[1].exited_at or 0.0, item[0]))


def attempt_record(n: int, mine: Mapping[int, RunObservation], reason: RunReason, message: str) -> Attempt:
    """The account of an attempt whose runs have all ended; the exit code is that of the cause."""
    failed = failed_runs(mine)
    cause = failed[0][1] if failed else next(iter(mine.values()), None)
    started = [run.started_at for run in mine.values() if run.started_at is not None]
    ended = [run.exited_at for run in mine.values() if run.exited_at is not None]
    return Attempt(
        n=n,
        reason=str(reason),
        message=message,
        started=min(started, default=None),
        ended=max(ended, default=None),
        exit_code=cause.exit_code if cause else None,
        infrastructure=reason in _INFRASTRUCTURE,
    )


def may_repeat(attempts: Sequence[Attempt], retries: int) -> bool:
    """Whether another attempt may follow the last of these; ``retries`` are the job's own."""
    last = attempts[-1]
    own = sum(not attempt.infrastructure for attempt in attempts)
    if last.reason in _FINAL:
        return False
    return len(attempts) - own <= INFRASTRUCTURE_RETRIES if last.infrastructure else own <= retries


def back_off(failures: int) -> float:
    """Seconds before the attempt that follows so many failed ones: 1, 2, 4 … 60."""
    return min(2.0 ** (failures - 1), _LONGEST_BACK_OFF)


def time_left(limit: float | None, record: Record) -> float | None:
    """What the ended attempts left of the job's time limit, in seconds; None without a limit."""
    return None if limit is None else limit - sum(attempt.seconds for attempt in record.attempts)
