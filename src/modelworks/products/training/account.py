"""What a job's status says beside its phase: progress, warnings and cost; and the end of its money. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from modelworks.kernel.decision import Action, Emit
from modelworks.kernel.events import Level
from modelworks.products.training import budget, progress
from modelworks.products.training.observe import Observed
from modelworks.products.training.prices import too_dear
from modelworks.products.training.record import Notice, Record
from modelworks.products.training.runs import Job, hourly_price, shapes_of

_COST_PERIOD = 60.0
"""Seconds after which what is spent is written down again, where nothing else has changed."""


def keep(job: Job, before: Record, after: Record, observed: Observed, now: float) -> tuple[Record, tuple[Action, ...]]:
    """The record with what its runs and the ledger say, and an event for each warning that is new."""
    found = {run.key: run for run in observed.runs}
    runs = {rank: found[key] for rank, key in enumerate(job.keys(after.attempt)) if key in found}
    rate = hourly_price(job.spec, job.resolved)
    document = progress.progress(before.progress, after.attempt, runs, rate)
    if after.phase.terminal and document:
        document.pop("remaining", None)
    told = () if after.phase.terminal else progress.warnings(before.warnings, document)
    news = document is not None and document != before.progress
    after = replace(after, progress=document, warnings=told, cost=_cost(before, after, observed, now, news=news))
    new = told if told and not before.warnings else ()
    return after, tuple(Emit("InputBound", text, Level.WARNING) for text in new)


def noticed(job: Job, before: Notice | None, asked: Notice | None, observed: Observed, now: float) -> Notice | None:
    """The notice of an attempt: what its claims ask for, and its money. ``before`` was given already."""
    ends = budget.endings(observed.runs)
    used, rate = budget.spent(observed.occupations, ends, now), budget.per_hour(observed.occupations, ends)
    notice = budget.evicted(before, asked)
    return budget.noticed(notice, job.spec, used, rate, observed.funds, now)


def out_of_money(job: Job, record: Record, observed: Observed, now: float) -> str:
    """Why an attempt that has not begun never will; empty when there is money for it."""
    if job.spec.budget is None:
        return ""
    used = budget.spent(observed.occupations, budget.endings(observed.runs), now)
    if not budget.exhausted(job.spec, used, hourly_price(job.spec, job.resolved)):
        return ""
    return f"{budget.told(job.spec.budget, used)}; there is nothing left for attempt {record.attempt}"


def waits_for_price(job: Job) -> str:
    """That its spot instances cost more than it is to pay; empty when they do not."""
    return too_dear(job.spec, shapes_of(job.spec, job.resolved))


def wakes_in(job: Job, after: Record, observed: Observed, now: float) -> float | None:
    """Seconds until the money of a running job asks for its notice; None when it never does."""
    if after.phase.terminal or after.notice is not None:
        return None
    ends = budget.endings(observed.runs)
    used, rate = budget.spent(observed.occupations, ends, now), budget.per_hour(observed.occupations, ends)
    due = budget.due(job.spec, used, rate, observed.funds, now) if rate else None
    return None if due is None else max(0.0, due - now)


def _cost(before: Record, after: Record, observed: Observed, now: float, *, news: bool) -> Mapping[str, Any] | None:
    if not observed.occupations:
        return before.cost
    ends = budget.endings(observed.runs)
    rate = round(budget.per_hour(observed.occupations, ends), 9)
    known = before.cost
    if known and known["per_hour"] == rate and not news and not after.phase.terminal:
        old = now - datetime.fromisoformat(known["at"]).timestamp() >= _COST_PERIOD
        if not rate or not old:
            return known
    amount = float(f"{budget.spent(observed.occupations, ends, now):.6g}")
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    return {"amount": amount, "per_hour": 0.0 if after.phase.terminal else rate, "at": at}
