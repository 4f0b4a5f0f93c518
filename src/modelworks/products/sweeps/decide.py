"""What to do next about a sweep. Pure: spec, trials, their jobs and time in, status and actions out.

A trial has parameters first (asked of the tuner, under its number), then a job of that number's name, then a result,
which is told once the job has ended. Each of the three is there or not: whoever is killed between two of them finds
what was done, and goes on with the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from modelworks.kernel.decision import (
    Action,
    CancelChild,
    CreateChild,
    Decision,
    DropTrials,
    Emit,
    Remove,
    RemoveChild,
    TrialReport,
    TrialResult,
    TrialWish,
    TuneTrials,
)
from modelworks.kernel.events import Level
from modelworks.kernel.quantities import format_duration, format_money
from modelworks.kernel.resource import Resource
from modelworks.products.sweeps.budget import Purse
from modelworks.products.sweeps.observe import Child, SweepObserved, Trial, job_name
from modelworks.products.sweeps.record import Ending, Record, SweepPhase
from modelworks.products.sweeps.spec import AlgorithmName, SweepSpec
from modelworks.products.training.facade import TRAINING_JOB, JobPhase

# A job's change wakes nobody but the job: its sweep looks itself.
_LOOK = 1.0
_LONGEST_REASON = 300
_TOLD_SHARE = 0.01  # of a budget


@dataclass(frozen=True)
class _Seen:
    """What a look at one trial found: how it ended, or what to do about it."""

    result: TrialResult | None = None
    report: TrialReport | None = None
    actions: tuple[Action, ...] = ()
    waits: str = ""


def decide(resource: Resource, observed: SweepObserved, now: datetime) -> Decision:
    """One pass over a sweep."""
    before, time = Record.of(resource.status), now.timestamp()
    if resource.deleting is not None:
        return _delete(resource, before, observed)
    if before.phase.terminal:
        if resource.status.get("observed_generation") == resource.generation:
            return Decision(resource.status)
        before = replace(
            before,
            phase=SweepPhase.RUNNING,
            ending=None,
            reason="",
            finished_at=None,
            opened_at=time,
            stops_obeyed=observed.last_stop,
        )
    spec = SweepSpec.parse(resource.spec, at="spec")
    record = replace(
        before,
        started_at=before.started_at if before.started_at is not None else time,
        opened_at=before.opened_at if before.opened_at is not None else time,
    )
    purse = _purse(resource.ref.name, spec, observed)
    record = replace(record, ending=record.ending or _asked_to_end(spec, record, observed, purse, time))
    record = replace(record, spent=_spent(record, purse))
    seen = [_look(resource, spec, record, trial, observed) for trial in observed.trials if not trial.ended]
    results = tuple(one.result for one in seen if one.result is not None)
    failed = _count(observed.trials, results, "failed")
    if record.ending is None and spec.failures is not None and failed > spec.failures:
        record = replace(record, ending=Ending.FAILURES)
        seen = [_look(resource, spec, record, trial, observed) for trial in observed.trials if not trial.ended]
    actions = [action for one in seen for action in one.actions]
    if any(isinstance(action, CreateChild) for action in actions):
        # One whose name is taken has none yet; what comes behind it is known by its jobs.
        waiting = (one.number for one in observed.trials if job_name(resource.ref.name, one.number) in observed.taken)
        record = replace(record, made=max(record.made, min(waiting, default=len(observed.trials))))
    wishes = () if record.ending is not None else _wishes(spec, observed.trials, len(seen) - len(results), purse)
    if record.ending is None and not seen and not wishes and len(observed.trials) < spec.most:
        record = replace(record, ending=Ending.BUDGET)  # nothing else leaves trials undone
    reports = tuple(one.report for one in seen if one.report is not None)
    if results or reports or wishes:
        actions.append(TuneTrials(spec.study(), results, reports, wishes))
    actions += [_told(spec, result) for result in results]
    record = _summed(resource.ref.name, spec, record, observed.trials)
    if seen or wishes:
        phase = SweepPhase.STOPPING if record.ending is not None else SweepPhase.RUNNING
        after, wake = replace(record, phase=phase), 0.0 if results or wishes else _LOOK
        waits = next((one.waits for one in seen if one.waits), "")
        after = replace(after, message="; ".join(part for part in (waits, _message(spec, after)) if part))
    else:
        after, wake = _finish(spec, replace(record, spent=None if purse is None else purse.spent), time), None
    if after.phase != Record.of(resource.status).phase or before.opened_at != after.opened_at:
        level = Level.WARNING if after.phase is SweepPhase.FAILED else Level.NORMAL
        actions.append(Emit(str(after.phase), after.message, level))
    return Decision(after.status(resource.generation), tuple(actions), wake)


def _asked_to_end(
    spec: SweepSpec, record: Record, observed: SweepObserved, purse: Purse | None, now: float
) -> Ending | None:
    if observed.last_stop > record.stops_obeyed:
        return Ending.STOPPED
    if spec.time_limit is not None and record.started_at is not None and now >= record.started_at + spec.time_limit:
        return Ending.TIME_LIMIT
    undone = len(observed.trials) < spec.most or any(not trial.ended for trial in observed.trials)
    return Ending.BUDGET if purse is not None and purse.empty and undone else None


def _purse(sweep: str, spec: SweepSpec, observed: SweepObserved) -> Purse | None:
    """The money of a sweep that has a budget. A trial that cost nothing had no job: it tells not what one costs."""
    if spec.budget is None:
        return None
    costs = [(trial.ended, observed.costs.get(job_name(sweep, trial.number), 0.0)) for trial in observed.trials]
    return Purse(
        spec.budget,
        ended=[cost for ended, cost in costs if ended and cost > 0],
        going=[cost for ended, cost in costs if not ended],
    )


def _spent(record: Record, purse: Purse | None) -> float | None:
    """What the status says was spent. It is not written anew for each cent."""
    if purse is None:
        return None
    known, told = record.spent, purse.spent
    if known is None or (known >= purse.amount) != purse.empty or abs(told - known) >= _TOLD_SHARE * purse.amount:
        return told
    return known


def _wishes(spec: SweepSpec, trials: Sequence[Trial], going: int, purse: Purse | None) -> tuple[TrialWish, ...]:
    """The next numbers, as many as may be at work beside those that go on, and as are paid for."""
    count = max(0, min(spec.parallel - going, spec.most - len(trials)))
    if purse is not None:
        count = purse.pays_for(count)
    return tuple(TrialWish(number, spec.point(number)) for number in range(len(trials), len(trials) + count))


def _look(resource: Resource, spec: SweepSpec, record: Record, trial: Trial, observed: SweepObserved) -> _Seen:
    """One trial that has not ended."""
    name = job_name(resource.ref.name, trial.number)
    child = observed.children.get(name)
    if child is None and trial.number >= record.made:
        if record.ending is not None:
            return _Seen(TrialResult(trial.number, "stopped", reason=_ending(spec, record)))
        if name in observed.taken:
            return _Seen(
                waits=f"trial {trial.number} waits: there is a {TRAINING_JOB.name} {name} that is not of this sweep; "
                f"delete it (`mw job delete {name}`), or give the sweep another name"
            )
        return _Seen(actions=(_create(resource, spec, trial, name),))
    if child is None or child.deleting:
        return _Seen(TrialResult(trial.number, "failed", trial.value, trial.step, "its job was deleted"))
    step, value = _measured(spec, child)
    if child.phase and JobPhase(child.phase).terminal:
        return _Seen(_ended(spec, record, trial, child, step, value))
    report = None
    if value is not None and step is not None and (trial.step is None or step > trial.step):
        report = TrialReport(trial.number, step, value)
    why = _unwanted(spec, record, trial, step)
    cancel = why and child.phase != JobPhase.CANCELLING
    return _Seen(report=report, actions=(CancelChild(TRAINING_JOB.name, name, why),) if cancel else ())


def _unwanted(spec: SweepSpec, record: Record, trial: Trial, step: int | None) -> str:
    """Why a trial's job is to end, for people; empty when it is to go on."""
    if trial.prune:
        return f"pruned at step {trial.step}: worse than most trials were there"
    if _whole(spec, step):
        return f"complete at step {step}: max_resource is {spec.algorithm.max_resource}"
    return _ending(spec, record)


def _whole(spec: SweepSpec, step: int | None) -> bool:
    most = spec.algorithm.max_resource if spec.algorithm.name is AlgorithmName.ASHA else None
    return most is not None and step is not None and step >= most


def _ended(
    spec: SweepSpec, record: Record, trial: Trial, child: Child, step: int | None, value: float | None
) -> TrialResult:
    """What a job that has ended says of its trial."""
    number = trial.number
    if child.phase == JobPhase.FAILED:
        return TrialResult(number, "failed", value, step, child.message[:_LONGEST_REASON])
    complete = child.phase == JobPhase.SUCCEEDED or _whole(spec, step)
    if complete and value is None:
        metric = spec.objective.metric
        return TrialResult(
            number, "failed", None, step, f"it reported no number {metric}; modelworks.train.report does"
        )
    if complete:
        return TrialResult(number, "complete", value, step)
    if trial.prune:
        return TrialResult(number, "pruned", value, step, _unwanted(spec, record, trial, step))
    why = _ending(spec, record) or "its job was cancelled"
    return TrialResult(number, "stopped", value, step, why)


def _measured(spec: SweepSpec, child: Child) -> tuple[int | None, float | None]:
    """The last step that a job told of, and the objective there."""
    value = (child.progress.get("metrics") or {}).get(spec.objective.metric)
    step = child.progress.get("step")
    return (None if step is None else int(step)), (None if value is None else float(value))


def _create(resource: Resource, spec: SweepSpec, trial: Trial, name: str) -> CreateChild:
    job = spec.job.dump()
    job["hyperparameters"] = {**job.get("hyperparameters", {}), **trial.parameters}
    if spec.job.output is not None:
        job["output"] = f"{spec.job.output.rstrip('/')}/{name}/"
    labels = {"modelworks/sweep": resource.ref.name, "modelworks/trial": str(trial.number)}
    return CreateChild(TRAINING_JOB.name, name, job, {**resource.labels, **labels})


def _summed(sweep: str, spec: SweepSpec, record: Record, trials: Sequence[Trial]) -> Record:
    """The record with how many trials there are of each state, and the best."""
    names = ("running", "complete", "pruned", "failed", "stopped")
    counts = {name: sum(trial.state == name for trial in trials) for name in names}
    best = best_of(spec, trials)
    found = None
    if best is not None:
        found = {
            "trial": best.number,
            "value": best.value,
            "step": best.step,
            "parameters": dict(best.parameters),
            "job": job_name(sweep, best.number),
        }
    return replace(record, counts={**counts, "most": spec.most}, best=found)


def best_of(spec: SweepSpec, trials: Iterable[Trial]) -> Trial | None:
    """The complete trial with the best value; of equals the first."""
    whole = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    sign = 1.0 if spec.objective.goal == "minimize" else -1.0
    return min(whole, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def _finish(spec: SweepSpec, record: Record, now: float) -> Record:
    """No trial goes on, and none is to come."""
    good = record.best is not None
    match record.ending:
        case Ending.STOPPED:
            phase = SweepPhase.STOPPED
        case Ending.FAILURES:
            phase = SweepPhase.FAILED
        case _:
            phase = SweepPhase.SUCCEEDED if good else SweepPhase.FAILED
    reason = str(record.ending) if record.ending is not None else ("Completed" if good else "NoResult")
    after = replace(record, phase=phase, reason=reason, finished_at=now)
    return replace(after, message=_message(spec, after))


def _message(spec: SweepSpec, record: Record) -> str:
    counts = record.counts or {}
    done = sum(counts.get(name, 0) for name in ("complete", "pruned", "failed", "stopped"))
    parts = [f"{done} of {counts.get('most', 0)} trials"]
    parts += [f"{counts[name]} {name}" for name in ("running", "pruned", "failed", "stopped") if counts.get(name)]
    if record.best is not None:
        parts.append(f"best {spec.objective.metric} {record.best['value']:.6g} of trial {record.best['trial']}")
    if spec.budget is not None and record.spent is not None:
        parts.append(f"{format_money(record.spent)} of {format_money(spec.budget)} spent")
    text = ", ".join(parts)
    return f"{_ending(spec, record)}: {text}" if record.ending is not None else text


def _ending(spec: SweepSpec, record: Record) -> str:
    match record.ending:
        case None:
            return ""
        case Ending.STOPPED:
            return "the sweep was stopped"
        case Ending.TIME_LIMIT:
            return f"the sweep's time limit of {format_duration(spec.time_limit or 0.0)} is over"
        case Ending.BUDGET:
            # One that was taken away meanwhile has no amount to tell.
            return Purse(spec.budget, going=[record.spent or 0.0]).told() if spec.budget else "the budget was spent"
        case Ending.FAILURES:
            return f"more than {spec.failures} trials failed"


def _told(spec: SweepSpec, result: TrialResult) -> Emit:
    value = "" if result.value is None else f"{spec.objective.metric} {result.value:.6g}"
    message = ", ".join(part for part in (f"trial {result.number}", value, result.reason) if part)
    level = Level.WARNING if result.state == "failed" else Level.NORMAL
    return Emit(f"Trial{result.state.capitalize()}", message, level)


def _count(trials: Iterable[Trial], results: Iterable[TrialResult], state: str) -> int:
    return sum(trial.state == state for trial in trials) + sum(result.state == state for result in results)


def _delete(resource: Resource, record: Record, observed: SweepObserved) -> Decision:
    """The jobs go first, with their runs; then the study, and the sweep."""
    if observed.children:
        count = len(observed.children)
        message = f"waits for {count} job{'s' if count > 1 else ''} of its trials to go"
        deleting = replace(record, phase=SweepPhase.DELETING, message=message)
        removals = tuple(
            RemoveChild(TRAINING_JOB.name, child.name) for child in observed.children.values() if not child.deleting
        )
        return Decision(deleting.status(resource.generation), removals, _LOOK)
    # Of trials nothing may be known here yet, while the study was made: between the two somebody may have been killed.
    return Decision(resource.status, (DropTrials(known=bool(observed.trials)), Remove()))
