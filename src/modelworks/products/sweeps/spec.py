"""What a user may write of a sweep. See docs/training-sweeps.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from modelworks.kernel.quantities import Duration
from modelworks.kernel.spec import Spec
from modelworks.products.training.facade import Hyperparameter, TrainingJobSpec

Choice = str | int | float | bool
_LARGEST = 1 << 53
_MOST_TRIALS = 10_000


class Float(Spec):
    """A number between ``low`` and ``high``, both included; ``log``: as many of them below the middle of the exponents
    as above."""

    type: Literal["float"]
    low: float = Field(ge=-1e100, le=1e100)
    high: float = Field(ge=-1e100, le=1e100)
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step is not None)
        return self

    @property
    def grid(self) -> tuple[Choice, ...]:
        """Every value; none when there is no ``step``."""
        if self.step is None:
            return ()
        steps = min((self.high - self.low) / self.step + 1e-8, _MOST_TRIALS)
        return tuple(self.low + index * self.step for index in range(math.floor(steps) + 1))


class Int(Spec):
    """A whole number between ``low`` and ``high``, both included."""

    type: Literal["int"]
    low: int = Field(ge=-_LARGEST, le=_LARGEST)
    high: int = Field(ge=-_LARGEST, le=_LARGEST)
    log: bool = False
    step: int = Field(default=1, ge=1, le=_LARGEST)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step != 1)
        return self

    @property
    def grid(self) -> tuple[Choice, ...]:
        return tuple(range(self.low, self.high + 1, self.step)[: _MOST_TRIALS + 1])


class Categorical(Spec):
    """One of ``choices``; a plain list says the same."""

    type: Literal["categorical"]
    choices: tuple[Choice, ...] = Field(min_length=1, max_length=1000)

    @field_validator("choices")
    @classmethod
    def _check(cls, choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
        if len(set(choices)) < len(choices):
            raise ValueError("a choice is there twice")
        return choices

    @property
    def grid(self) -> tuple[Choice, ...]:
        return self.choices


def _check_range(low: float, high: float, log: bool, stepped: bool) -> None:
    if low > high:
        raise ValueError("low is larger than high")
    if log and low <= 0:
        raise ValueError("log needs a low above 0")
    if log and stepped:
        raise ValueError("give either log or step, not both")


def _listed(value: object) -> object:
    return {"type": "categorical", "choices": value} if isinstance(value, list | tuple) else value


Parameter = Annotated[
    Annotated[Float | Int | Categorical, Field(discriminator="type")],
    BeforeValidator(_listed, json_schema_input_type=Float | Int | Categorical | list[Choice]),
]


class AlgorithmName(StrEnum):
    GRID = "grid"  # every combination
    RANDOM = "random"
    TPE = "tpe"  # tree-structured Parzen estimator: draws where the good trials were
    ASHA = "asha"  # asynchronous successive halving: ends those early that are worse than most at the same step


class Algorithm(Spec):
    """``sampler`` draws for ``asha``; ``min_resource`` is the step at which it looks first, the next ones are
    ``reduction_factor`` times as far. A trial that has come to ``max_resource`` is complete."""

    name: AlgorithmName = AlgorithmName.TPE
    seed: int = Field(default=0, ge=0, le=_LARGEST)
    startup_trials: int = Field(default=10, ge=0, le=_MOST_TRIALS)
    sampler: Literal["random", "tpe"] = "random"
    min_resource: int = Field(default=1, ge=1, le=_LARGEST)
    max_resource: int | None = Field(default=None, ge=1, le=_LARGEST)
    reduction_factor: int = Field(default=4, ge=2, le=1000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_resource is not None and self.max_resource < self.min_resource:
            raise ValueError("max_resource is smaller than min_resource")
        return self

    def terms(self) -> dict[str, Any]:
        """As the tuner takes them."""
        samplers = {AlgorithmName.TPE: "tpe", AlgorithmName.ASHA: self.sampler}
        return {**self.dump(), "sampler": samplers.get(self.name, "random")}


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Objective(Spec):
    """A metric that the trials report, such as ``loss``: ``modelworks.train.report(loss=…)``."""

    metric: str = Field(min_length=1, max_length=128)
    goal: Literal["minimize", "maximize"] = "minimize"


class SweepSpec(Spec):
    """Many runs of one training job that differ in hyperparameters, to find the best."""

    job: TrainingJobSpec = Field(description="of each trial; the parameters are put into its hyperparameters")
    parameters: dict[Hyperparameter, Parameter] = Field(min_length=1, max_length=64)
    algorithm: Annotated[Algorithm, BeforeValidator(_named, json_schema_input_type=Algorithm | AlgorithmName)] = Field(
        default_factory=Algorithm, description="a name, or with options"
    )
    objective: Objective
    trials: int | None = Field(
        default=None, ge=1, le=_MOST_TRIALS, description="at most; default: 20, or the whole grid"
    )
    parallel: int = Field(default=1, ge=1, le=256, description="trials at once")
    failures: int | None = Field(
        default=None, ge=0, le=_MOST_TRIALS, description="the sweep fails with one more; default: any number may"
    )
    time_limit: Duration | None = Field(default=None, ge=1, le=10 * 366 * 86_400)
    budget: float | None = Field(default=None, gt=0, le=1e9, description="money of all trials; no more begin at it")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.algorithm.name is AlgorithmName.GRID:
            for name, parameter in self.parameters.items():
                if not parameter.grid:
                    raise ValueError(f"parameters.{name}: a grid needs a step, or a list of values")
            if self.grid_size > _MOST_TRIALS and self.trials is None:
                raise ValueError(
                    f"the grid has {self.grid_size:,} points; say how many trials, {_MOST_TRIALS:,} at most"
                )
        return self

    @property
    def grid_size(self) -> int:
        return math.prod(len(parameter.grid) for parameter in self.parameters.values())

    @property
    def most(self) -> int:
        """How many trials there are in the end."""
        if self.algorithm.name is AlgorithmName.GRID:
            return min(self.trials or _MOST_TRIALS, self.grid_size)
        return self.trials or 20

    def point(self, number: int) -> dict[str, Choice] | None:
        """The grid's point of a trial; None for other algorithms. Of the names, the alphabet's last changes first: the
        database keeps no other order."""
        if self.algorithm.name is not AlgorithmName.GRID:
            return None
        found: dict[str, Choice] = {}
        for name, parameter in sorted(self.parameters.items(), reverse=True):
            number, index = divmod(number, len(parameter.grid))
            found[name] = parameter.grid[index]
        return found

    def study(self) -> Mapping[str, Any]:
        """The terms of the tuner's study."""
        grid = self.algorithm.name is AlgorithmName.GRID
        return {
            "direction": self.objective.goal,
            "parameters": {
                name: {"type": "categorical", "choices": list(parameter.grid)} if grid else parameter.dump()
                for name, parameter in sorted(self.parameters.items())
            },
            "algorithm": self.algorithm.terms(),
        }
