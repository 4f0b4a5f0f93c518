"""What may be written of a quota. See docs/training-queue.md."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from modelworks.kernel.quantities import Bytes, Cpu
from modelworks.kernel.spec import Spec

InstanceTypeName = Annotated[str, Field(min_length=1, max_length=253)]
Count = Annotated[int, Field(ge=0, le=10**6)]


class Per(StrEnum):
    """A span of the calendar, in UTC; weeks begin on Monday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Spend(Spec):
    """The most money of a span: of all that the workspace occupies, by the ledger and up to now."""

    amount: float = Field(ge=0, le=1e12, description="in the platform's currency")
    per: Per = Per.MONTH


class QuotaSpec(Spec):
    """The most that a workspace may hold at once, and spend. What is not given is not limited."""

    instances: dict[InstanceTypeName, Count] = Field(
        default_factory=dict, max_length=256, description="by instance type; custom: given as resources"
    )
    cpu: Annotated[Cpu, Field(ge=0)] | None = None
    memory: Annotated[Bytes, Field(ge=0)] | None = None
    gpu: Count | None = None
    spend: Spend | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.instances and self.cpu is None and self.memory is None and self.gpu is None and self.spend is None:
            raise ValueError("limit something: instances, cpu, memory, gpu or spend")
        return self
