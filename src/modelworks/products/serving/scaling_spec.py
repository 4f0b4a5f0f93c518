"""What a user may write of a service's number of replicas: autoscaling by load, by the clock, and down to zero."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Self

from pydantic import Field, model_validator

from modelworks.kernel.quantities import Duration
from modelworks.kernel.resource import Name
from modelworks.kernel.spec import Spec


class Metrics(Spec):
    """Targets for each replica. Of several, the one that wants the most replicas counts."""

    qps: float | None = Field(default=None, gt=0, le=1e6, description="requests a second")
    concurrency: float | None = Field(default=None, gt=0, le=1e5, description="requests being answered or waiting")
    cpu: float | None = Field(default=None, gt=0, le=1, description="share of its CPUs")
    gpu: float | None = Field(default=None, gt=0, le=1, description="share of its GPUs' time")


class Schedule(Spec):
    """At each time of ``schedule`` the service has at least ``replicas``, until the next schedule's time comes."""

    name: Name
    schedule: Annotated[str, Field(min_length=5, max_length=256)] = Field(
        description="cron: 6 fields (seconds first) or 5"
    )
    replicas: int = Field(ge=0, le=1000)
    timezone: str = Field(default="UTC", max_length=64, description="an IANA name, such as Europe/Berlin")


class Autoscaling(Spec):
    """``min`` and ``max`` hold always. Wanted is ``ceil(replicas × current ÷ target)``; within the tolerance all stays.

    Stabilisation: what is wanted must have been wanted for so long. Cooldown: so long after the last action in that
    direction there is no other one.
    """

    min: int = Field(default=1, ge=0, le=1000)
    max: int = Field(default=1, ge=1, le=1000)
    initial: int | None = Field(default=None, ge=0, le=1000, description="at first; default: the least")
    metrics: Metrics = Field(default_factory=lambda: Metrics(concurrency=8))
    tolerance: float = Field(default=0.1, ge=0, lt=1)
    scale_out_stabilization: Duration = Field(default=0.0, ge=0, le=3600)
    scale_in_stabilization: Duration = Field(default=300.0, ge=0, le=3600)
    scale_out_cooldown: Duration = Field(default=60.0, ge=0, le=3600)
    scale_in_cooldown: Duration = Field(default=300.0, ge=0, le=3600)
    idle: Duration = Field(
        default=300.0, ge=1, le=7 * 86_400, description="without a request for so long: down to `min`"
    )
    prewarm: int = Field(
        default=1, ge=0, le=1000, description="replicas kept until `idle` is over, when `min` is lower"
    )
    schedules: tuple[Schedule, ...] = Field(default=(), max_length=64)
    exclude_dates: tuple[date, ...] = Field(default=(), max_length=1000, description="days on which no schedule counts")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max})")
        if self.initial is not None and not self.min <= self.initial <= self.max:
            raise ValueError(f"initial ({self.initial}) is not between min ({self.min}) and max ({self.max})")
        if self.prewarm > self.max:
            raise ValueError(f"prewarm ({self.prewarm}) is larger than max ({self.max})")
        if not self.metrics.dump():
            raise ValueError("metrics: give at least one of qps, concurrency, cpu, gpu")
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) != len(names):
            raise ValueError("two schedules have the same name")
        return self
