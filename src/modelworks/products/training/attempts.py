"""When an attempt counts as failed, whose fault it was, and when the next may begin. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelworks.kernel.run import RunObservation, RunPhase, RunReason
from modelworks.products.training.policy_spec import RestartPolicy
from modelworks.products.training.record import Attempt, Record
from modelworks.products.training.spec import TrainingJobSpec

INFRASTRUCTURE_RETRIES = 3
"""So often in a row an attempt that soon ended by the platform's fault is repeated, costing no retry of the job's."""
SOON = 60.0
"""An attempt that ran for so many seconds has shown that the platform can run it."""

# A stop nobody asked for is the platform going down; a store that is away, or a node that is cut off or cannot reach
# another, is not the workload's fault either.
_INFRASTRUCTURE = frozenset(
    {
        RunReason.LOST,
        RunReason.STOPPED,
        RunReason.STORE_UNREACHABLE,
        RunReason.LEASE_EXPIRED,
        RunReason.PREFLIGHT_FAILED,
    }
)
NOTICED = frozenset({RunReason.PREEMPTED, RunReason.RESIZED})
"""Ended by the platform so that it can go on: no failure."""
_FOLLOWED = NOTICED | {RunReason.STOPPED, RunReason.PEER_FAILED, RunReason.BUDGET}
# Another attempt would end the same way: time or money is up, or packages, code or data are not there.
_FINAL = frozenset({RunReason.TIME_LIMIT, RunReason.BUDGET, RunReason.ENVIRONMENT_FAILED, RunReason.INPUT_MISSING})
# A node that was cut off meanwhile, or a port that another program had, is so once; what is so again is a firewall or a
# full disk, and nobody but people will change that.
_LOOKS = 2
_GONE = frozenset({RunReason.LOST, RunReason.LEASE_EXPIRED})
_FIRST_SIGNAL = 128  # an exit code of so much or more is a death by signal
_LONGEST_BACK_OFF = 60.0
# Clocks of two nodes are not the same, and a rank whose peer is gone dies within moments.
_TOGETHER = 1.0
_LOST_ITS_PEER = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote process exited",
    "socket timeout",
    "distbackenderror",
    "failed to recv",
    "failed to send",
)


def failed_runs(mine: Mapping[int, RunObservation]) -> list[tuple[int, RunObservation]]:
    """The ranks that ended badly, the cause first.

    What failed by itself comes before what was stopped with it, the earlier before the later; but of those that failed
    together, one that complains of its peers comes after one that does not. Who looked for its peers and did not find
    them comes after a peer whose node was gone.
    """
    failed = [
        (rank, run)
        for rank, run in mine.items()
        if run.phase is RunPhase.LOST or (run.phase is RunPhase.EXITED and run.reason is not RunReason.COMPLETED)
    ]
    own = [run.exited_at or 0.0 for _, run in failed if not followed(run)]
    together = min(own, default=0.0) + _TOGETHER
    some_gone = any(run.phase is RunPhase.LOST or run.reason in _GONE for _, run in failed)

    def order(item: tuple[int, RunObservation]) -> tuple[bool, bool, bool, float, int]:
        rank, run = item
        at = run.exited_at or 0.0
        looked = some_gone and run.reason is RunReason.PREFLIGHT_FAILED
        return followed(run), looked, at > together or lost_its_peer(run), at, rank

    return sorted(failed, key=order)


def followed(run: RunObservation) -> bool:
    """Whether the run was stopped because of others, and so is not the cause of anything."""
    return run.reason in _FOLLOWED


def failing(run: RunObservation) -> bool:
    """Whether the run's process has ended badly, though its outputs and log are still on their way."""
    return run.phase is RunPhase.FINALIZING and run.exit_code not in (None, 0)


def lost_its_peer(run: RunObservation) -> bool:
    """Whether a rank's last words are that another one is gone."""
    text = "\n".join((run.message, *run.last_lines)).lower()
    return any(words in text for words in _LOST_ITS_PEER)


def attempt_record(
    n: int,
    mine: Mapping[int, RunObservation],
    reason: RunReason,
    message: str,
    *,
    now: float,
    replicas: int | None = None,
) -> Attempt:
    """The account of an attempt whose runs have all ended; the exit code is that of the cause.

    Where nobody knows when the last of them did, it was before ``now``. ``replicas`` is how many an elastic job had.
    """
    failed = failed_runs(mine)
    cause = failed[0][1] if failed else next(iter(mine.values()), None)
    started = [run.started_at for run in mine.values() if run.started_at is not None]
    ended = [run.exited_at for run in mine.values() if run.exited_at is not None]
    return Attempt(
        n=n,
        reason=str(reason),
        message=message,
        started=min(started, default=None),
        ended=max(ended, default=now if started else None),
        exit_code=cause.exit_code if cause else None,
        infrastructure=reason in _INFRASTRUCTURE,
        replicas=replicas,
        node=cause.node if cause is not None and reason is RunReason.PREFLIGHT_FAILED else "",
    )


def may_repeat(attempts: Sequence[Attempt], spec: TrainingJobSpec) -> bool:
    """Whether another attempt may follow the last of these."""
    last, reason = attempts[-1], RunReason(attempts[-1].reason)
    if reason in _FINAL or (reason is RunReason.STALLED and spec.watchdog.policy != "restart"):
        return False
    if reason is RunReason.RESIZED:
        return True
    if reason is RunReason.PREEMPTED:
        return sum(attempt.reason == reason for attempt in attempts) <= spec.preemptions
    if reason is RunReason.PREFLIGHT_FAILED and _looks(attempts) >= _LOOKS:
        return False
    if last.infrastructure:
        return _in_vain(attempts) <= INFRASTRUCTURE_RETRIES
    own = sum(not attempt.infrastructure and RunReason(attempt.reason) not in NOTICED for attempt in attempts)
    return own <= spec.retries and _worth_it(last, spec.restart_policy)


def _worth_it(last: Attempt, policy: RestartPolicy) -> bool:
    if policy is RestartPolicy.EXIT_CODE:
        return last.exit_code is None or last.exit_code >= _FIRST_SIGNAL
    return policy is not RestartPolicy.NEVER


def _in_vain(attempts: Sequence[Attempt]) -> int:
    """How many in a row, up to the last, soon ended by the platform's fault."""
    count = 0
    for attempt in reversed(attempts):
        if not attempt.infrastructure or attempt.seconds >= SOON:
            break
        count += 1
    return count


def _looks(attempts: Sequence[Attempt]) -> int:
    """How many in a row, up to the last, ended by what a look before their command has found."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.reason != RunReason.PREFLIGHT_FAILED or not attempt.node:
            break
        count += 1
    return count


def avoided(record: Record) -> str:
    """The node on which the last attempt found something missing; the next prefers others."""
    return record.attempts[-1].node if record.attempts else ""


def back_off(attempts: Sequence[Attempt]) -> float:
    """Seconds before the attempt that follows these, the last of which failed: 1, 2, 4 … 60 with each in a row."""
    failures = 0
    for attempt in reversed(attempts):
        if RunReason(attempt.reason) in NOTICED:
            break
        failures += 1
    return min(2.0 ** (failures - 1), _LONGEST_BACK_OFF)


def time_left(limit: float | None, record: Record) -> float | None:
    """What the ended attempts left of the job's time limit, in seconds; None without a limit."""
    return None if limit is None else limit - sum(attempt.seconds for attempt in record.attempts)
