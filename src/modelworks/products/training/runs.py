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
from modelworks.products.kind import ClaimView
from modelworks.products.mounts import code_input, log_uri, volume_mounts, workspace_bucket
from modelworks.products.training import frameworks, tracking, watchdog
from modelworks.products.training.channels import places
from modelworks.products.training.gang import Gang, Member, Place, role_names, role_of
from modelworks.products.training.policy_spec import Framework
from modelworks.products.training.prices import price_of
from modelworks.products.training.ranks import (
    JobIdentity,
    channel_variable,
    hyperparameter_texts,
    hyperparameter_variables,
    path_aliases,
    process_count,
    replica_variables,
)
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.products.workload import arguments, expand, expand_variables

MODEL_OUTPUT, CHECKPOINTS, TENSORBOARD = "model", "checkpoints", "tensorboard"
CONFIG = "/ml/input/config/hyperparameters.json"
# Where the sandbox puts things. The agent sets these variables itself, to other paths where it cannot mount; in a
# command they stand for the sandbox's, which the agent rewrites.
SANDBOX_PATHS = {
    "MW_OUTPUT_DIR": "/mnt/output",
    "MW_CHECKPOINT_DIR": "/ml/output/checkpoints",
    "MW_TENSORBOARD_DIR": "/ml/output/tensorboard",
}


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

    def resources(self, ordinal: int) -> Resources:
        """What a replica occupies: its role's, or the job's."""
        return Resources.parse(self._shape(ordinal).get("resources", {}))

    def _shape(self, ordinal: int) -> Mapping[str, Any]:
        """What apply made of a replica's instance type: its name, resources and price."""
        role = role_of(self.spec, ordinal)
        shape: Mapping[str, Any] = self.resolved.get("roles", {}).get(role.name if role else "", self.resolved)
        return shape

    @property
    def bucket(self) -> str:
        return workspace_bucket(self.workspace)

    def keys(self, attempt: int) -> list[str]:
        """The run keys of an attempt, by ordinal; of an elastic job those of the most replicas that it may have."""
        return [str(RunKey(self.uid, f"a{attempt}", rank)) for rank in range(self.spec.size)]

    def claims(self, attempt: int, avoid: str = "") -> tuple[Claim, ...]:
        """One gang: all replicas are placed together or none, an elastic job's further ones where there is room.

        The node ``avoid`` is the last that is taken.
        """
        spec = self.spec
        least = spec.elastic.min if spec.elastic else spec.size
        return tuple(
            Claim(
                key=key,
                gang=f"{self.uid}/a{attempt}",
                resources=self.resources(ordinal),
                instance_type=str(self._shape(ordinal).get("instance_type", "custom")),
                price_per_hour=price_of(spec, self._shape(ordinal)),
                priority=spec.priority,
                preemptible=spec.preemptible,
                optional=ordinal >= least,
                spot=spec.spot is not None,
                notice=spec.notice,
                node_selector=spec.node_selector,
                tolerations=spec.tolerations,
                avoid=avoid,
            )
            for ordinal, key in enumerate(self.keys(attempt))
        )

    def gang(self, attempt: int, claims: Mapping[str, ClaimView]) -> Gang:
        """The replicas of an attempt that have a place."""
        found = {ordinal: claims[key] for ordinal, key in enumerate(self.keys(attempt)) if key in claims}
        places = {
            ordinal: Place(claim.node, claim.address, claim.interface, claim.leased)
            for ordinal, claim in found.items()
            if claim.node is not None
        }
        return Gang.of(self.spec, self.uid, attempt, places)

    def output_uri(self, attempt: int, rank: int = 0, *, alone: bool = False) -> str:
        """Rank 0 writes the job's output. The others get folders beside it, so that no two commit one manifest.

        ``alone`` is for who may be late: a folder of the attempt's own, from which it is copied when it has won.
        """
        if alone and self.resolved.get("output"):
            return f"{attempts_uri(self.uid, self.resolved)}a{attempt}/{rank}/"
        root = self.resolved.get("output") or f"s3://{self.bucket}/jobs/{self.name}/{self.uid}/a{attempt}/"
        return str(root) if rank == 0 else beside(str(root), f".rank{rank}")

    def checkpoint_uri(self, attempt: int, rank: int = 0) -> str:
        """Each attempt and replica has a folder of its own, so that who comes late overwrites nothing."""
        own = self.resolved.get("checkpoints")
        root = f"{own}{self.name}/{self.uid}" if own else f"s3://{self.bucket}/jobs/{self.name}/{self.uid}/checkpoints"
        return f"{root}/a{attempt}{'' if rank == 0 else f'.rank{rank}'}/"

    def tensorboard_uri(self, attempt: int, rank: int = 0) -> str:
        """Event files: each attempt and replica is a run of its own to TensorBoard, which is given the folder above."""
        own = f"a{attempt}{'' if rank == 0 else f'.rank{rank}'}"
        return f"s3://{self.bucket}/jobs/{self.name}/{self.uid}/tensorboard/{own}/"


def beside(folder: str, ending: str) -> str:
    """The folder's neighbour with that ending; nothing is beside a bucket's root, so there it is a folder in it."""
    bucket, _, key = folder.removeprefix("s3://").rstrip("/").partition("/")
    return f"s3://{bucket}/{key}{ending}/"


def attempts_uri(uid: str, resolved: Mapping[str, Any]) -> str:
    """In the bucket of a named output, what is of the job's attempts alone: copies within a bucket are the store's."""
    bucket = str(resolved["output"]).removeprefix("s3://").partition("/")[0]
    return f"s3://{bucket}/.modelworks/attempts/{uid}/"


def hourly_price(spec: TrainingJobSpec, resolved: Mapping[str, Any]) -> float:
    """Of all replicas together; of an elastic job with the most that it may have."""
    return sum(price_of(spec, shape) for shape in shapes_of(spec, resolved))


def shapes_of(spec: TrainingJobSpec, resolved: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What apply made of each replica's instance type."""
    shapes = resolved.get("roles", {})
    return [shapes.get(role, resolved) for role in role_names(spec)]


def run_spec(job: Job, attempt: int, rank: int, gang: Gang, *, time_left: float | None = None) -> RunSpec:
    """The run of one replica, ``rank`` being its ordinal, beside those of ``gang``.

    ``time_left`` is what earlier attempts left of the job's time limit, in seconds.
    """
    spec, resolved = job.spec, job.resolved
    member, role = gang.member(rank), role_of(spec, rank)
    key = str(RunKey(job.uid, f"a{attempt}", rank))
    inputs = _inputs(spec, resolved)
    outputs = _outputs(job, attempt, rank, leased=member.place.leased)
    platform = variables(job, attempt, gang, member)
    own = expand_variables(spec.env | (role.env if role else {}), platform | SANDBOX_PATHS)
    known = platform | SANDBOX_PATHS | own
    shipped = log_uri(job.workspace, key)
    quiet, quiet_steps = watchdog.quiet(spec.watchdog)
    return RunSpec(
        key=key,
        workspace=job.workspace,
        kind="TrainingJob",
        name=job.name,
        command=_command(spec, member, (role and role.command) or spec.command, known),
        environment=EnvironmentRef.parse(resolved["environment"]) if resolved.get("environment") else None,
        env=platform | own,
        resources=job.resources(rank),
        inputs=inputs,
        outputs=outputs,
        volumes=volume_mounts([v for v in spec.volumes if v.mount_path not in resolved.get("buckets", {})], resolved),
        files=_files(job, gang),
        access=Access(
            read=tuple(item.uri for item in inputs),
            write=(*(output.uri for output in outputs), shipped),
            expose=spec.credentials,
        ),
        log_uri=shipped,
        time_limit=time_left,
        grace=spec.grace_period,
        rendezvous=gang.rendezvous(member, network=spec.preflight.network, timeout=spec.preflight.timeout),
        disk=spec.preflight.disk,
        quiet=quiet,
        quiet_steps=quiet_steps,
        numbers={metric.name: metric.regex for metric in spec.metrics},
    )


def variables(job: Job, attempt: int, gang: Gang, member: Member) -> dict[str, str]:
    """The platform's part of a replica's environment; what the user sets himself comes on top."""
    identity = JobIdentity(job.uid, job.name, attempt)
    return (
        replica_variables(identity, job.spec, gang, member, job.resources(member.ordinal))
        | path_aliases(job.spec)
        | hyperparameter_variables(job.spec.hyperparameters)
        | (tracking.variables(job.spec, job.uid, job.name) if job.resolved.get("tracking") else {})
    )


def _command(
    spec: TrainingJobSpec, member: Member, command: str | tuple[str, ...], known: Mapping[str, str]
) -> tuple[str, ...]:
    expanded = tuple(expand(part, known) for part in arguments(command))
    return frameworks.mpi_command(member, expanded) if spec.framework is Framework.MPI else expanded


def _files(job: Job, gang: Gang) -> tuple[File, ...]:
    spec = job.spec
    config = File(path=CONFIG, content=json.dumps(hyperparameter_texts(spec.hyperparameters), indent=2) + "\n")
    if spec.framework is not Framework.MPI:
        return (config,)
    slots = {one.ordinal: process_count(spec, job.resources(one.ordinal)) for one in gang.members}
    return config, File(path=frameworks.HOST_FILE, content=frameworks.host_file(gang, name=job.name, slots=slots))


def _outputs(job: Job, attempt: int, rank: int, *, leased: bool) -> tuple[Output, ...]:
    found = [
        Output(
            name=MODEL_OUTPUT,
            uri=job.output_uri(attempt, rank, alone=leased),
            paths=("/mnt/output", "/ml/output/model"),
            env="MW_OUTPUT_DIR",
        ),
        Output(
            name=CHECKPOINTS,
            uri=job.checkpoint_uri(attempt, rank),
            paths=(SANDBOX_PATHS["MW_CHECKPOINT_DIR"],),
            commit=False,
            env="MW_CHECKPOINT_DIR",
            # The latest first. One that was cut off in the middle of its upload is completed by those before it.
            restore=tuple(job.checkpoint_uri(earlier, rank) for earlier in range(attempt - 1, 0, -1)),
            # The first rank saves and all load, in most scripts: what it wrote is theirs as far as they wrote nothing.
            lent=tuple(job.checkpoint_uri(earlier) for earlier in range(attempt - 1, 0, -1)) if rank else (),
        ),
    ]
    events, buckets = SANDBOX_PATHS["MW_TENSORBOARD_DIR"], job.resolved.get("buckets", {})
    taken = [*job.spec.mounts, *(v.mount_path for v in job.spec.volumes if v.mount_path not in buckets)]
    if not any(path == events or path.startswith(f"{events}/") for path in taken):
        uri = job.tensorboard_uri(attempt, rank)
        found.append(Output(name=TENSORBOARD, uri=uri, paths=(events,), commit=False, env="MW_TENSORBOARD_DIR"))
    return tuple(found)


def _inputs(spec: TrainingJobSpec, resolved: Mapping[str, Any]) -> tuple[Input, ...]:
    uris = resolved.get("inputs", spec.inputs)
    found = [
        Input(
            channel=channel,
            uri=uris[channel],
            paths=places(spec, channel),
            env=channel_variable(channel),
        )
        for channel in sorted(spec.inputs)
    ]
    mounted = {**resolved.get("mounts", {}), **resolved.get("buckets", {})}
    found += [
        Input(channel=f"mount{number}", uri=uri, paths=(path,))
        for number, (path, uri) in enumerate(sorted(mounted.items()))
    ]
    code = resolved.get("code", spec.code)
    return (*found, code_input(code)) if code else tuple(found)
