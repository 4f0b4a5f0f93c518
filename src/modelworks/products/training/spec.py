"""What a user may write of a training job. See docs/architecture.md, "Manifests"."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from modelworks.kernel.catalogue import EnvironmentSpec
from modelworks.kernel.quantities import Duration
from modelworks.kernel.run import Resources
from modelworks.kernel.spec import Spec
from modelworks.products.training.policy_spec import (
    CheckpointPolicy,
    Framework,
    MetricDefinition,
    Preflight,
    Priority,
    ReplicaRange,
    RestartPolicy,
    Role,
    Spot,
    Watchdog,
)
from modelworks.products.workload import Command, EnvName, EnvValue, MountPath, VolumeReference, duplicates

_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_HYPERPARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")


def _check_channel(name: str) -> str:
    if not _CHANNEL.fullmatch(name):
        raise ValueError(f"not a channel name: {name!r}; use 1-63 letters, digits, '-' and '_', such as train")
    if name == "output":
        raise ValueError("the channel 'output' would hide /mnt/output; choose another name")
    return name


def _check_hyperparameter(name: str) -> str:
    if not _HYPERPARAMETER.fullmatch(name):
        raise ValueError(f"not a hyperparameter name: {name!r}; use letters, digits and '_.-', such as learning_rate")
    return name


Channel = Annotated[str, AfterValidator(_check_channel)]
Hyperparameter = Annotated[str, AfterValidator(_check_hyperparameter)]
Text = Annotated[str, Field(min_length=1, max_length=2048)]


class TrainingJobSpec(Spec):
    """A command that runs to its end on one or more replicas."""

    command: Command = Field(description="text for the shell, or a list of arguments")
    code: Text | None = Field(default=None, description="s3:// URI of a folder or a .tar.gz; the CLI uploads a folder")
    environment: Text | EnvironmentSpec | None = Field(
        default=None, description="a name, or requirements; none: the platform's own Python"
    )
    instance_type: Text | None = Field(default=None, description="a name of the catalogue; default local.small")
    resources: Resources | None = Field(default=None, description="instead of an instance type")
    replicas: Annotated[int, Field(ge=1, le=1024)] | ReplicaRange = Field(
        default=1, description="or {min, max}: an elastic job"
    )
    roles: tuple[Role, ...] = Field(default=(), max_length=16, description="instead of replicas: groups that differ")
    framework: Framework = Framework.PYTORCH
    processes: int | None = Field(
        default=None, ge=1, le=1024, description="in each replica; default: one for each GPU, or one"
    )
    env: dict[EnvName, EnvValue] = Field(default_factory=dict, max_length=512)
    hyperparameters: dict[Hyperparameter, str | int | float | bool] = Field(default_factory=dict, max_length=512)
    inputs: dict[Channel, Text] = Field(default_factory=dict, max_length=64)
    mounts: dict[MountPath, Text] = Field(
        default_factory=dict, max_length=64, description="s3:// URIs, read-only, at paths of their own"
    )
    output: Text | None = Field(default=None, description="s3:// prefix; default below the workspace's own bucket")
    volumes: tuple[VolumeReference, ...] = Field(default=(), max_length=32)
    retries: int = Field(default=0, ge=0, le=100)
    time_limit: Duration | None = Field(
        default=None, ge=1, le=10 * 366 * 86_400, description="of all attempts together"
    )
    grace_period: Duration = Field(default=30.0, ge=0, le=3600)
    credentials: bool = False
    restart_policy: RestartPolicy = RestartPolicy.ON_FAILURE
    priority: Priority = Field(default=0, description="a waiting job may have running ones of lower priority preempted")
    preemptible: bool = Field(default=True, description="may be stopped for a job of higher priority")
    preemptions: int = Field(default=100, ge=0, le=10_000, description="how often it is queued again after a notice")
    notice: Duration = Field(default=180.0, ge=0, le=3600, description="between a preemption's SIGTERM and SIGKILL")
    spot: Spot | None = None
    node_selector: dict[str, str] = Field(default_factory=dict, max_length=32)
    tolerations: tuple[Text, ...] = Field(default=(), max_length=32)
    budget: float | None = Field(default=None, gt=0, le=1e9, description="money; the job stops, checkpointed, at it")
    preflight: Preflight = Field(default_factory=Preflight)
    watchdog: Watchdog = Field(default_factory=Watchdog)
    checkpoint: CheckpointPolicy = Field(default_factory=CheckpointPolicy)
    tracking: bool | None = Field(
        default=None, description="MLFLOW_* variables; default: where the platform has a tracking server"
    )
    experiment: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    metrics: tuple[MetricDefinition, ...] = Field(default=(), max_length=64, description="numbers read from the log")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.instance_type is not None and self.resources is not None:
            raise ValueError("give either instance_type or resources, not both")
        if self.roles and self.replicas != 1:  # as it is stored, the default beside the roles
            raise ValueError("give either replicas or roles, not both")
        if twice := duplicates([role.name for role in self.roles]):
            raise ValueError(f"two roles are called {', '.join(sorted(twice))}")
        if self.roles and all(role.lasting for role in self.roles):
            raise ValueError("roles: all of them are lasting, so that the job would never end")
        taken = [f"/mnt/{channel}" for channel in self.inputs] + ["/mnt/output"]
        twice = duplicates(taken + [volume.mount_path for volume in self.volumes] + list(self.mounts))
        if twice:
            raise ValueError(f"two things are mounted at {', '.join(sorted(twice))}")
        return self

    @property
    def size(self) -> int:
        """How many replicas the job has; an elastic one, at most."""
        if self.roles:
            return sum(role.replicas for role in self.roles)
        return self.replicas if isinstance(self.replicas, int) else self.replicas.max

    @property
    def elastic(self) -> ReplicaRange | None:
        return None if isinstance(self.replicas, int) else self.replicas
