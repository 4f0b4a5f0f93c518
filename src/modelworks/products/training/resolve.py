"""The names in a job's spec made facts, at apply."""

from __future__ import annotations

from typing import Any

from modelworks.db import nodes
from modelworks.kernel.resource import Metadata
from modelworks.products.catalogue.facade import Shape, resolve_shape
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.resolution import DEFAULT_INSTANCE_TYPE, Resolution
from modelworks.products.training import tracking, watchdog
from modelworks.products.training.policy_spec import Framework
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.products.workload import VolumeReference, arguments
from modelworks.tracking.available import available

_NAMED = 8  # nodes that a note names
_USES_HYPERPARAMETERS = ("hyperparameters.json", "PAI_USER_ARGS", "PAI_HPS", "modelworks.train", "hyperparameters()")


def resolve(metadata: Metadata, spec: TrainingJobSpec, lookup: Lookup) -> Resolved:
    """Raises Invalid with the path of what is not known or not a URI."""
    resolution = Resolution("TrainingJob", metadata, lookup)
    buckets = [volume for volume in spec.volumes if _is_bucket(lookup, metadata.workspace, volume.name)]
    resolution.workload(spec.model_copy(update={"volumes": tuple(v for v in spec.volumes if v not in buckets)}))
    if buckets:
        resolution.data["buckets"] = {volume.mount_path: _bucket(resolution, volume) for volume in buckets}
    if spec.spot is not None:
        instance_type = None if spec.resources is not None else spec.instance_type or DEFAULT_INSTANCE_TYPE
        shape = resolve_shape(lookup, metadata.workspace, instance_type, spec.resources, "spec")
        resolution.data |= _spot(spec, shape)
    if spec.roles:
        resolution.data["roles"] = _roles(resolution, spec)
    if spec.inputs:
        resolution.data["inputs"] = {
            channel: _input(resolution, channel, uri) for channel, uri in sorted(spec.inputs.items())
        }
    if spec.mounts:
        resolution.data["mounts"] = {
            path: resolution.uri(uri, f"spec.mounts.{path}") for path, uri in sorted(spec.mounts.items())
        }
    if spec.output is not None:
        resolution.data["output"] = resolution.uri(spec.output, "spec.output", folder=True, write=True)
    if spec.checkpoint.uri is not None:
        resolution.data["checkpoints"] = resolution.uri(
            spec.checkpoint.uri, "spec.checkpoint.uri", folder=True, write=True
        )
    if spec.framework is Framework.MPI and not resolution.data.get("environment", {}).get("image"):
        resolution.notes += _mpi(lookup)
    if tracking.resolve(spec, available=available(lookup.settings)):
        resolution.data["tracking"] = True
    resolution.notes += unread(spec)
    resolution.notes += watchdog.advice(spec)
    return resolution.resolved()


def unread(spec: TrainingJobSpec) -> list[str]:
    """A note when nothing that can be seen here takes the hyperparameters; what the code does cannot be."""
    commands = [spec.command, *(role.command for role in spec.roles)]
    words = [word for command in commands for word in arguments(command or ())]
    words += [value for env in (spec.env, *(role.env for role in spec.roles)) for value in env.values()]
    if not spec.hyperparameters or any(name in word for word in words for name in _USES_HYPERPARAMETERS):
        return []
    own = "unless the code reads them (modelworks.train.hyperparameters(), $PAI_HPS_<NAME>), " if spec.code else ""
    return [
        f"hyperparameters are not appended to the command: {own}it can use $PAI_USER_ARGS or "
        "/ml/input/config/hyperparameters.json"
    ]


def _mpi(lookup: Lookup) -> list[str]:
    """Said before a job waits and starts for nothing. No error: its environment or its code may bring OpenMPI."""
    machines = [node.observation for node in nodes.everything(lookup.connection)]
    without = sorted(machine.name for machine in machines if machine.labels.get("mpi") == "none")
    if not without:
        return []
    if len(without) == len(machines):
        return [
            "no node has mpirun, which an MPI job is started by: install OpenMPI on them (apt-get install "
            "openmpi-bin), or give an environment or image that has it"
        ]
    return [
        f"without mpirun are the nodes {', '.join(without[:_NAMED])}{' …' * (len(without) > _NAMED)}: install OpenMPI "
        "there (apt-get install openmpi-bin), or choose others by node_selector: {mpi: mpirun}"
    ]


def _roles(resolution: Resolution, spec: TrainingJobSpec) -> dict[str, Any]:
    """The shape of each role that has one of its own; the others have the job's."""
    found = {}
    for index, role in enumerate(spec.roles):
        if role.instance_type is None and role.resources is None:
            continue
        path = f"spec.roles.{index}"
        shape = resolve_shape(resolution.lookup, resolution.workspace, role.instance_type, role.resources, path)
        resolution.substituted(shape.substitution)
        found[role.name] = {
            "instance_type": shape.instance_type,
            "resources": shape.resources.dump(),
            "price_per_hour": shape.price_per_hour,
        } | _spot(spec, shape)
    return found


def _spot(spec: TrainingJobSpec, shape: Shape) -> dict[str, Any]:
    if spec.spot is None or shape.spot_price_per_hour is None:
        return {}
    return {"spot_price_per_hour": shape.spot_price_per_hour}


def _is_bucket(lookup: Lookup, workspace: str, name: str) -> bool:
    """Whether a volume's name is a bucket's: the claims of other systems do not say which they are."""
    return lookup.resource(workspace, "Volume", name) is None and lookup.resource(workspace, "Bucket", name) is not None


def _bucket(resolution: Resolution, volume: VolumeReference) -> str:
    uri = resolution.uri(f"s3://{volume.name}/", "spec.volumes")
    if not volume.read_only:
        resolution.notes.append(
            f"{volume.mount_path} holds the bucket {volume.name} read-only: what is to stay goes to /mnt/output"
        )
    return uri


def _input(resolution: Resolution, channel: str, wanted: str) -> str:
    """A channel's URI; a base model to go on from may be one that the user replaces by his own."""
    substitution = resolution.lookup.settings.substitute("model", wanted)
    resolution.substituted(substitution)
    return resolution.uri(substitution.used if substitution else wanted, f"spec.inputs.{channel}")
