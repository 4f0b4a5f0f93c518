"""The money of a job: what was spent, when a budget ends, and the notice that ends the job in time. Pure.

A job whose budget ends is stopped as one that is preempted, with a notice; the notice is paid from the budget too. So
the stop begins earlier by what the notice costs, but never before half of the budget is spent. Only where nobody was
there to stop it in time, such as while the controller was down, more is spent. A job whose workspace has spent its
money is preempted, and waits in the queue until there is more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from modelworks.kernel.quantities import format_money
from modelworks.kernel.run import RunObservation, RunReason
from modelworks.products.training.record import Notice
from modelworks.products.training.spec import TrainingJobSpec

_LATE_GRACE = 30.0
"""Seconds to save and end, at most, of a job whose money was spent before anybody saw it."""


@dataclass(frozen=True)
class Occupation:
    """A row of the ledger: what a claim costs, since when and until when (Unix seconds; None: it goes on)."""

    key: str
    per_hour: float
    began: float
    ended: float | None = None


@dataclass(frozen=True)
class Funds:
    """The money of a workspace as one of its quotas limits it: ``spent`` of ``amount`` at ``at``, ``per_hour`` more.

    ``told`` says for people whose money it is, and when there is more.
    """

    amount: float
    spent: float
    per_hour: float
    at: float
    told: str


def endings(runs: Iterable[RunObservation]) -> dict[str, float]:
    """When runs ended, by key: what they occupy is released as of then."""
    return {run.key: run.exited_at for run in runs if run.phase.ended and run.exited_at is not None}


def spent(occupations: Iterable[Occupation], ends: Mapping[str, float], now: float) -> float:
    """Up to ``now``; what ended and was not released yet counts until it ended."""
    return sum(one.per_hour * _seconds(one, ends, now) / 3600 for one in occupations)


def per_hour(occupations: Iterable[Occupation], ends: Mapping[str, float]) -> float:
    """What goes on."""
    return sum(one.per_hour for one in occupations if one.ended is None and one.key not in ends)


def reserve(amount: float, rate: float, notice: float) -> float:
    """What of a budget is kept for the notice (seconds): what that costs, but at most half of the budget."""
    return min(rate * notice / 3600, amount / 2)


def stops_at(amount: float, used: float, rate: float, notice: float, now: float) -> float | None:
    """When the notice has to be given, in Unix seconds; in the past when it is late, None when nothing is spent."""
    left = amount - used - reserve(amount, rate, notice)
    if left <= 0:
        return now
    return now + left / rate * 3600 if rate > 0 else None


def runs_out_at(amount: float, used: float, rate: float, now: float) -> float:
    """When all of it is spent."""
    return now + max(0.0, amount - used) / rate * 3600 if rate > 0 else now


def due(spec: TrainingJobSpec, used: float, rate: float, funds: Sequence[Funds], now: float) -> float | None:
    """When the first of the job's and its workspace's money asks for a notice; None while nothing does."""
    times = [stops_at(spec.budget, used, rate, spec.notice, now)] if spec.budget is not None else []
    if rate > 0:
        # Not before all is spent: as long as there is some, admission would place it again.
        times += [stops_at(one.amount, _used(one, now), one.per_hour, 0.0, now) for one in funds]
    return min((time for time in times if time is not None), default=None)


def noticed(
    known: Notice | None, spec: TrainingJobSpec, used: float, rate: float, funds: Sequence[Funds], now: float
) -> Notice | None:
    """The notice of a running attempt, with what its money says. That of the job's own budget overrides any other."""
    if spec.budget is not None and (known is None or known.reason != RunReason.BUDGET):
        at = stops_at(spec.budget, used, rate, spec.notice, now)
        if at is not None and at <= now:
            out = runs_out_at(spec.budget, used, rate, now)
            ours = Notice(str(RunReason.BUDGET), told(spec.budget, used), now, _deadline(out, spec, now))
            return ours if known is None else replace(ours, at=known.at, deadline=min(ours.deadline, known.deadline))
    if known is not None:
        return known
    for one in funds:
        if _used(one, now) >= one.amount:
            return Notice(str(RunReason.PREEMPTED), one.told, now, now + spec.notice)
    return None


def evicted(known: Notice | None, found: Notice | None) -> Notice | None:
    """A notice of a budget stays one, however else the room is wanted back; only its time may become shorter."""
    if known is None or found is None or known.reason != RunReason.BUDGET or found.reason == RunReason.BUDGET:
        return found
    return replace(known, deadline=min(known.deadline, found.deadline))


def exhausted(spec: TrainingJobSpec, used: float, rate: float) -> bool:
    """Whether a job that does not run could not run for a moment: ``rate`` is what it would cost an hour."""
    return spec.budget is not None and used > 0 and spec.budget - used <= reserve(spec.budget, rate, spec.notice)


def told(amount: float, used: float) -> str:
    if used > amount:
        return f"its budget of {format_money(amount)} is spent: {format_money(used)}"
    return f"its budget of {format_money(amount)} ends: {format_money(used)} is spent, the rest is for its notice"


def _deadline(out: float, spec: TrainingJobSpec, now: float) -> float:
    late = min(spec.notice, _LATE_GRACE)
    return min(now + spec.notice, max(out, now + late)) if out <= now else min(now + spec.notice, out)


def _used(funds: Funds, now: float) -> float:
    return funds.spent + funds.per_hour * max(0.0, now - funds.at) / 3600


def _seconds(one: Occupation, ends: Mapping[str, float], now: float) -> float:
    ended = one.ended if one.ended is not None else min(now, ends.get(one.key, now))
    return max(0.0, ended - one.began)
