"""What each replica of an attempt runs: the job's spec and facts made a RunSpec. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelworks.kernel.decision import Claim
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import (
    Access,
    EnvironmentRef,
    File,
    Input,
    Output,
    Resources,
    RunKey,
    RunSpec,
)
from modelworks.products.mounts import code_input, log_uri, volume_mounts, workspace_bucket
from modelworks.products.training.ranks import (
    channel_variable,
    hyperparameter_texts,
    hyperparameter_variables,
    path_aliases,
    rank_variables,
)
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.products.workload import arguments, expand, expand_variables

MODEL_OUTPUT, CHECKPOINTS = "model", "checkpoints"
CONFIG = "/ml/input/config/hyperparameters.json"
# Where the sandbox puts things. The agent sets these variables itself, to other paths where it cannot mount; in a
# command they stand for the sandbox's, which the agent rewrites.
SANDBOX_PATHS = {"MW_OUTPUT_DIR": "/mnt/output", "MW_CHECKPOINT_DIR": "/ml/output/checkpoints"}


@dataclass(frozen=True)
class Job:
    """A training job as the decision sees it: the spec, and what apply made of its names."""

    uid: str
    workspace: str
    name: str
    spec: TrainingJobSpec
    resolved: Mapping[str, Any]

    @classmethod
    def of(cls, resource: Resource) -> Job:
        spec = TrainingJobSpec.parse(resource.spec, at="spec")
        return cls(resource.uid, resource.ref.workspace, resource.ref.name, spec, resource.resolved)

    @property
    def resources(self) -> Resources:
        return Resources.parse(self.resolved.get("resources", {}))

    @property
    def bucket(self) -> str:
        return workspace_bucket(self.workspace)

    def keys(self, attempt: int) -> list[str]:
        """The run keys of an attempt, by rank."""
        return [str(RunKey(self.uid, f"a{attempt}", rank)) for rank in range(self.spec.size)]

    def claims(self, attempt: int) -> tuple[Claim, ...]:
        """One gang: all replicas are placed together or none."""
        return tuple(
            Claim(
                key=key,
                gang=f"{self.uid}/a{attempt}",
                resources=self.resources,
                instance_type=str(self.resolved.get("instance_type", "custom")),
                price_per_hour=float(self.resolved.get("price_per_hour", 0.0)),
                priority=self.spec.priority,
                preemptible=self.spec.preemptible,
                notice=self.spec.notice,
                node_selector=self.spec.node_selector,
                tolerations=self.spec.tolerations,
            )
            for key in self.keys(attempt)
        )

    def output_uri(self, attempt: int, rank: int = 0) -> str:
        """Rank 0 writes the job's output. The others get folders beside it, so that no two commit one manifest."""
        root = self.resolved.get("output") or f"s3://{self.bucket}/jobs/{self.name}/{self.uid}/a{attempt}/"
        return str(root) if rank == 0 else f"{str(root).rstrip('/')}.rank{rank}/"

    def checkpoint_uri(self, attempt: int, rank: int = 0) -> str:
        suffix = "" if rank == 0 else f".rank{rank}"
        return f"s3://{self.bucket}/jobs/{self.name}/{self.uid}/checkpoints/a{attempt}{suffix}/"


def run_spec(job: Job, attempt: int, rank: int, *, time_left: float | None = None) -> RunSpec:
    """The run of one rank. ``time_left`` is what earlier attempts left of the job's time limit, in seconds."""
    spec, resolved = job.spec, job.resolved
    key = str(RunKey(job.uid, f"a{attempt}", rank))
    inputs = _inputs(spec, resolved)
    outputs = (
        Output(
            name=MODEL_OUTPUT,
            uri=job.output_uri(attempt, rank),
            paths=("/mnt/output", "/ml/output/model"),
            env="MW_OUTPUT_DIR",
        ),
        Output(
            name=CHECKPOINTS,
            uri=job.checkpoint_uri(attempt, rank),
            paths=("/ml/output/checkpoints",),
            commit=False,
            env="MW_CHECKPOINT_DIR",
            # The latest first. One that was cut off in the middle of its upload is completed by those before it.
            restore=tuple(job.checkpoint_uri(earlier, rank) for earlier in range(attempt - 1, 0, -1)),
        ),
    )
    platform = variables(job, attempt, rank)
    own = expand_variables(spec.env, platform | SANDBOX_PATHS)
    known = platform | SANDBOX_PATHS | own
    shipped = log_uri(job.workspace, key)
    return RunSpec(
        key=key,
        workspace=job.workspace,
        kind="TrainingJob",
        name=job.name,
        command=tuple(expand(part, known) for part in arguments(spec.command)),
        environment=EnvironmentRef.parse(resolved["environment"]) if resolved.get("environment") else None,
        env=platform | own,
        resources=job.resources,
        inputs=inputs,
        outputs=outputs,
        volumes=volume_mounts(spec.volumes, resolved),
        files=(File(path=CONFIG, content=json.dumps(hyperparameter_texts(spec.hyperparameters), indent=2) + "\n"),),
        access=Access(
            read=tuple(item.uri for item in inputs),
            write=(*(output.uri for output in outputs), shipped),
            expose=spec.credentials,
        ),
        log_uri=shipped,
        time_limit=time_left,
        grace=spec.grace_period,
    )


def variables(job: Job, attempt: int, rank: int) -> dict[str, str]:
    """The platform's part of a rank's environment; what the user sets himself comes on top."""
    return (
        rank_variables(
            uid=job.uid,
            name=job.name,
            attempt=attempt,
            rank=rank,
            world_size=job.spec.size,
            gpus=job.resources.gpu,
        )
        | path_aliases(job.spec)
        | hyperparameter_variables(job.spec.hyperparameters)
    )


def _inputs(spec: TrainingJobSpec, resolved: Mapping[str, Any]) -> tuple[Input, ...]:
    uris = resolved.get("inputs", spec.inputs)
    found = [
        Input(
            channel=channel,
            uri=uris[channel],
            paths=(f"/mnt/{channel}", f"/ml/input/data/{channel}"),
            env=channel_variable(channel),
        )
        for channel in sorted(spec.inputs)
    ]
    code = resolved.get("code", spec.code)
    return (*found, code_input(code)) if code else tuple(found)
