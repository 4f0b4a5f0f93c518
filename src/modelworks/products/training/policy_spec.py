"""The parts of a training job's spec that are nouns of their own. See docs/training.md."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from modelworks.kernel.patterns import compile_pattern
from modelworks.kernel.quantities import Bytes, Duration
from modelworks.kernel.run import Resources
from modelworks.kernel.spec import Spec, written_switch
from modelworks.products.workload import Command, EnvName, EnvValue

Priority = Annotated[int, Field(ge=-1000, le=1000)]


class Framework(StrEnum):
    """Who makes the processes of a job one program, and so which variables its replicas get."""

    PYTORCH = "pytorch"  # torchrun and its like: MASTER_ADDR, PET_*
    TENSORFLOW = "tensorflow"  # TF_CONFIG
    MPI = "mpi"  # a host file; the command runs on rank 0 alone


class RestartPolicy(StrEnum):
    """Which ends of an attempt use one of the job's ``retries``; any other end of that kind is the job's."""

    ON_FAILURE = "OnFailure"
    NEVER = "Never"
    EXIT_CODE = "ExitCode"  # 1-127 end the job, 128 and above (a signal) are repeated, as Kubeflow has it
    ALWAYS = "Always"  # as OnFailure: a job that completes is complete


class ReplicaRange(Spec):
    """An elastic job: it begins with ``min`` replicas or more and works with up to ``max``.

    An attempt goes on for ``grow_after`` before it ends, checkpointed, to go on with more replicas.
    """

    min: int = Field(default=1, ge=1, le=1024)
    max: int = Field(ge=1, le=1024)
    grow_after: Duration = Field(default=300.0, ge=1, le=366 * 86_400)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return self


class Role(Spec):
    """Replicas of one kind among others; what is not given is the job's own. Ranks count in the order of the list."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$", description="such as master, worker, chief, ps, evaluator")
    replicas: int = Field(default=1, ge=1, le=1024)
    command: Command | None = None
    instance_type: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    resources: Resources | None = None
    env: dict[EnvName, EnvValue] = Field(default_factory=dict, max_length=512)
    lasting: bool | None = Field(
        default=None, description="serves the others and is ended with them; default: TensorFlow's ps and evaluators"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.instance_type is not None and self.resources is not None:
            raise ValueError("give either instance_type or resources, not both")
        return self


class Watchdog(Spec):
    """What is done about a job that does nothing: no output, no step, CPU and GPUs idle, on every replica.

    ``after`` is how long; by default 60 s, or five times the median step where the script reports steps.
    """

    policy: Annotated[Literal["report", "restart", "stop", "off"], BeforeValidator(written_switch)] = "report"
    after: Duration | None = Field(default=None, ge=1, le=30 * 86_400)


class Preflight(Spec):
    """What is looked at before the command starts. ``disk`` must be free on each node."""

    network: bool = Field(default=True, description="every replica can reach every replica on the ports of the job")
    disk: Bytes = Field(default=0, ge=0, le=1 << 60)
    timeout: Duration = Field(default=30.0, ge=1, le=30)


class Spot(Spec):
    """On instances that may be taken away, for at most this share of the catalogue's price (null: any)."""

    price_limit: float | None = Field(default=None, gt=0, le=1)


class CheckpointPolicy(Spec):
    """What ``modelworks.train`` does where the script says nothing: one each ``every`` steps, ``keep`` of them kept."""

    every: int = Field(default=500, ge=1, le=10**9)
    keep: int = Field(default=3, ge=1, le=1000)
    uri: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        default=None, description="s3:// prefix below which each job has a folder; default beside its output"
    )


class MetricDefinition(Spec):
    """A number in the log: ``regex`` has one group."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]{0,127}$")
    regex: str = Field(min_length=1, max_length=512)

    @field_validator("regex")
    @classmethod
    def _check(cls, regex: str) -> str:
        if compile_pattern(regex).groups != 1:
            raise ValueError("one group is needed around the number, such as loss=([0-9.]+); (?:…) is none")
        return regex
