"""What a job would cost, before it is submitted. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelworks.kernel.spec import Spec
from modelworks.products.billing.facade import estimate
from modelworks.products.training.prices import PRICE
from modelworks.products.training.runs import hourly_price, shapes_of
from modelworks.products.training.spec import TrainingJobSpec


@dataclass(frozen=True)
class Past:
    """An earlier job: seconds from its first replica to its last, the wait between attempts too, and what it cost."""

    seconds: float
    amount: float


class History(Spec):
    """The median of earlier jobs."""

    jobs: int
    seconds: float
    amount: float


class Estimate(Spec):
    """What the job costs while it runs; ``at_most`` is for its whole time limit, or its budget where that is less.

    On spot, ``on_demand_per_hour`` is what it would cost otherwise and ``saving`` the share (0-1) that is saved.
    ``history`` is of earlier jobs with its name or its labels, at what they cost then.
    """

    price_per_hour: float
    currency: str
    at_most: float | None = None
    budget: float | None = None
    on_demand_per_hour: float | None = None
    saving: float | None = None
    history: History | None = None


def of(spec: TrainingJobSpec, resolved: Mapping[str, Any], currency: str, before: Sequence[Past]) -> Estimate:
    """``resolved`` is what apply would make of the spec's names; ``before`` are earlier jobs like this one."""
    price = hourly_price(spec, resolved)
    usual = sum(float(shape.get(PRICE, 0.0)) for shape in shapes_of(spec, resolved))
    limits = [estimate(price, 1, spec.time_limit)] if spec.time_limit is not None else []
    limits += [spec.budget] if spec.budget is not None else []
    return Estimate(
        price_per_hour=price,
        currency=currency,
        at_most=round(min(limits), 6) if limits else None,
        budget=spec.budget,
        on_demand_per_hour=usual if spec.spot is not None else None,
        saving=round(1 - price / usual, 4) if spec.spot is not None and usual else None,
        history=_history(before),
    )


def _history(before: Sequence[Past]) -> History | None:
    if not before:
        return None
    seconds, amount = (
        statistics.median(values) for values in zip(*((p.seconds, p.amount) for p in before), strict=True)
    )
    return History(jobs=len(before), seconds=round(seconds, 3), amount=float(f"{amount:.6g}"))
