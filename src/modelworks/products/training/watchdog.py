"""Whether a job does nothing, which of its ranks lags, and what is done about it. Pure.

Each agent says of its own runs that they are idle, by its own clock. A job is stalled when all of its ranks are: one
that still works may be what the others wait for, as when rank 0 evaluates or writes a checkpoint alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from modelworks.kernel.decision import Action, CaptureStacks, StacksOf, StopRun
from modelworks.kernel.run import RunObservation, RunPhase, RunReason
from modelworks.products.training.attempts import may_repeat
from modelworks.products.training.policy_spec import RestartPolicy, Watchdog
from modelworks.products.training.record import Attempt, JobPhase, Record
from modelworks.products.training.spec import TrainingJobSpec

QUIET, QUIET_STEPS = 60.0, 5.0
_APART = 5.0  # seconds; samples are two apart, and clocks of nodes are not the same


@dataclass(frozen=True)
class Stall:
    """A job that does nothing since ``since`` (Unix seconds); ``rank`` lags, where that can be told."""

    since: float
    rank: int | None
    message: str


def quiet(policy: Watchdog) -> tuple[float | None, float]:
    """After how many seconds, and how many median steps, a run without a sign of work is idle; None: never."""
    if policy.policy == "off":
        return None, 0.0
    return (QUIET, QUIET_STEPS) if policy.after is None else (policy.after, 0.0)


def stalled(policy: Watchdog, runs: Mapping[int, RunObservation]) -> Stall | None:
    """``runs`` are those of the attempt by rank."""
    live = {rank: run for rank, run in runs.items() if not run.phase.ended}
    if policy.policy == "off" or not live:
        return None
    if not all(run.phase is RunPhase.RUNNING and run.idle for run in live.values()):
        return None
    return Stall(*_silence(live))


def ending(runs: Mapping[int, RunObservation]) -> str:
    """What to say of an attempt that was ended because it did nothing: the same as before its end."""
    ended = {rank: run for rank, run in runs.items() if run.reason is RunReason.STALLED}
    return _silence(ended or runs)[2]


def _silence(runs: Mapping[int, RunObservation]) -> tuple[float, int | None, str]:
    """Since when these do nothing, which of them lags, and both in words."""
    since = max(run.active_at or run.started_at or run.created_at for run in runs.values())
    at = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = f"all {len(runs)} replicas" if len(runs) > 1 else "the replica"
    rank, why = lagging(runs)
    text = f"no output, no step, no CPU or GPU at work since {at} ({who}){'; ' if why else ''}{why}"
    return since, rank, f"{text}; the log of each replica has its stacks"


def _ending(spec: TrainingJobSpec, record: Record) -> str:
    """What becomes of a job that does nothing."""
    if spec.watchdog.policy == "stop":
        return "; it is stopped"
    if spec.watchdog.policy != "restart":
        return ""
    attempt = Attempt(n=record.attempt, reason=str(RunReason.STALLED), message="")
    if may_repeat((*record.attempts, attempt), spec):
        return "; it is stopped, to be repeated"
    why = f"restart_policy {spec.restart_policy}" if _never(spec) else f"retries: {spec.retries}"
    return f"; it is stopped, and not repeated ({why})"


def advice(spec: TrainingJobSpec) -> list[str]:
    """A note for who wants an attempt that hangs repeated and allows no other one."""
    if spec.watchdog.policy != "restart" or (spec.retries > 0 and not _never(spec)):
        return []
    said = "restart_policy is Never" if _never(spec) else "retries is 0"
    return [
        f"watchdog: {{policy: restart}} never restarts this job, since {said}: a stall uses one of its retries, "
        "so it ends the job; give it retries: 3" + (" and another restart_policy" if _never(spec) else "")
    ]


def _never(spec: TrainingJobSpec) -> bool:
    return spec.restart_policy is RestartPolicy.NEVER


def lagging(live: Mapping[int, RunObservation]) -> tuple[int | None, str]:
    """The rank that the others wait for, and what says so: the lowest step, else who worked last."""
    if len(live) < 2:
        return None, ""
    steps = {rank: run.progress.step for rank, run in live.items() if run.progress is not None}
    if len(steps) == len(live) and len(set(steps.values())) > 1:
        rank = min(steps, key=lambda one: (steps[one], one))
        return rank, f"rank {rank} lags: it is at step {steps[rank]}, the furthest at {max(steps.values())}"
    signs = sorted((run.active_at or 0.0, rank) for rank, run in live.items())
    (before, _), (last, rank) = signs[-2], signs[-1]
    if last - before > _APART:
        return rank, f"rank {rank} lags: it worked for {last - before:.0f} s when all others had fallen silent"
    return None, "no rank lags: all fell silent within seconds"


def watch(
    spec: TrainingJobSpec, before: JobPhase, record: Record, runs: Mapping[int, RunObservation]
) -> tuple[Record, tuple[Action, ...]]:
    """The record of a running job as it is, or as one that is stalled, and what is done about that.

    ``before`` is the phase of the last pass: stacks are taken once, when the job falls silent.
    """
    stall = stalled(spec.watchdog, runs) if record.phase is JobPhase.RUNNING else None
    if stall is None:
        return record, ()
    live = {rank: run for rank, run in sorted(runs.items()) if not run.phase.ended}
    actions: list[Action] = []
    if before is not JobPhase.STALLED:
        actions.append(CaptureStacks(tuple(StacksOf(run.node, run.key, rank) for rank, run in live.items())))
    if spec.watchdog.policy in ("restart", "stop"):
        actions += [StopRun(run.node, run.key, spec.grace_period, RunReason.STALLED) for run in live.values()]
    message = stall.message + _ending(spec, record)
    return replace(record, phase=JobPhase.STALLED, message=message), tuple(actions)
