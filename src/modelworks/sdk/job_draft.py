"""What other systems' training jobs have in common, and the one TrainingJob that becomes of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from modelworks.sdk.translation import CODE_MOUNT, Translation

FRAMEWORKS = {
    "PyTorchJob": "pytorch",
    "TFJob": "tensorflow",
    "MPIJob": "mpi",
    "ElasticBatchJob": "pytorch",
    "ElasticBatch": "pytorch",
}
KINDS = ("PyTorchJob", "TFJob", "MPIJob", "ElasticBatchJob")
# Rank 0, whose log is shown and whose output is the job's, is who leads.
_ORDER = ("launcher", "master", "chief", "worker", "ps", "evaluator", "graphlearn")
_LEADERS = ("master", "chief")
_CHANNEL = re.compile(r"(?:/mnt|/ml/input/data)/([A-Za-z0-9][A-Za-z0-9_-]{0,62})")
_OUTPUTS = ("/mnt/output", "/ml/output/model")
_CHECKPOINTS, _TENSORBOARD = "/ml/output/checkpoints", "/ml/output/tensorboard"
_STORES = ("s3://", "oss://")
# How often a policy restarts what says nothing of a limit.
_RESTARTS = 3
_POLICIES = {"Always", "OnFailure", "Never", "ExitCode"}


@dataclass
class RoleDraft:
    """Replicas of one kind, and where they were written."""

    name: str
    path: str
    replicas: Any = 1
    image: str | None = None
    image_path: str = ""
    command: Any = None
    env: dict[str, str] = field(default_factory=dict)
    shape: dict[str, Any] = field(default_factory=dict)  # instance_type, or resources
    spec: dict[str, Any] = field(default_factory=dict)  # what is the job's here, such as its node_selector
    restart_policy: str | None = None


@dataclass
class JobDraft(Translation):
    """A TrainingJob in the making: ``spec`` is of the job, ``roles`` are still as their system has them."""

    kind: str = "PyTorchJob"
    roles: list[RoleDraft] = field(default_factory=list)
    elastic: tuple[int, int] | None = None
    requirements: list[str] = field(default_factory=list)

    def scratch(self) -> Translation:
        """Another spec, of which notes and errors are this one's."""
        return Translation(notes=self.notes, errors=self.errors)

    def mount_uri(self, uri: str, path: str, at: str) -> None:
        """A folder of the object store at a path: as what the path stands for here, else at the path itself."""
        path = path.rstrip("/") or "/mnt/data"
        if not uri.startswith(_STORES):
            self.wrong(at, f"{uri.partition('://')[0]}:// cannot be mounted: use a bucket, or a volume of that name")
            return
        channel = _CHANNEL.fullmatch(path)
        if path in _OUTPUTS:
            self.spec["output"] = uri
        elif path == _CHECKPOINTS:
            self.spec.setdefault("checkpoint", {})["uri"] = uri
        elif path == _TENSORBOARD:
            self.note(at, f"what is written to {path} is kept in the workspace's bucket")
        elif path == CODE_MOUNT:
            self.spec["code"] = uri
        elif channel:
            self._once("inputs", channel[1], uri, path, at)
        else:
            self._once("mounts", path, uri, path, at)

    def mount_name(self, name: str, path: str, at: str, *, read_only: bool = False) -> None:
        """A volume, or a bucket, by its name: which of them it is is known when the job is applied."""
        path = path.rstrip("/") or "/mnt/data"
        if path in (*_OUTPUTS, _CHECKPOINTS, CODE_MOUNT):
            self.mount_uri(f"s3://{name}/", path, at)
            return
        one = {"name": name, "mount_path": path} | ({"read_only": True} if read_only else {})
        volumes = self.spec.setdefault("volumes", [])
        if one not in volumes:  # each role mounts it
            volumes.append(one)

    def _once(self, field_name: str, key: str, uri: str, path: str, at: str) -> None:
        taken = self.spec.setdefault(field_name, {})
        if taken.setdefault(key, uri) != uri:
            self.wrong(at, f"two things are mounted at {path}")


def finish(draft: JobDraft) -> JobDraft:
    """Make the roles what a TrainingJob has of them."""
    framework = FRAMEWORKS[draft.kind]
    if framework != "pytorch":
        draft.spec["framework"] = framework
    for role in draft.roles:
        role.name = role.name.lower()
        if not str(role.replicas).isdigit():
            draft.wrong(role.path, f"its number of replicas is no number: {role.replicas!r}")
            return draft
        role.replicas = int(role.replicas)
    roles = sorted((role for role in draft.roles if role.replicas), key=_rank)
    if not roles:
        draft.wrong(draft.roles[0].path if draft.roles else "spec", "a job has at least one replica")
        return draft
    _environment(draft, roles)
    _shared(draft, roles)
    _restarts(draft, roles)
    _commands(draft, roles)
    if draft.elastic is not None or draft.kind.startswith("ElasticBatch"):
        _elastic(draft, roles)
    elif len(roles) == 1:
        one = roles[0]
        draft.spec |= one.shape | ({"env": one.env} if one.env else {})
        if one.replicas != 1:
            draft.spec["replicas"] = one.replicas
    else:
        draft.spec["roles"] = [_document(role, draft.spec.get("command")) for role in roles]
    return draft


def _rank(role: RoleDraft) -> int:
    return _ORDER.index(role.name) if role.name in _ORDER else len(_ORDER)


def _document(role: RoleDraft, command: Any) -> dict[str, Any]:
    own = {"command": role.command} if role.command not in (None, command) else {}
    env = {"env": role.env} if role.env else {}
    return {"name": role.name, "replicas": role.replicas, **own, **role.shape, **env}


def _environment(draft: JobDraft, roles: list[RoleDraft]) -> None:
    """One for all replicas."""
    images = {role.image: role for role in roles if role.image}
    image = next(iter(images), None)
    for other, role in list(images.items())[1:]:
        draft.wrong(role.image_path, f"all replicas run in one environment: {other} is not {image}")
    if draft.requirements:
        draft.spec["environment"] = {"requirements": draft.requirements}
        if image:
            draft.note(images[image].image_path, "the packages make the environment")
    elif image:
        # A short name may stand for an environment of the catalogue; whether it does is known when it is applied.
        draft.spec["environment"] = {"image": image} if "/" in image or ":" in image else image


def _shared(draft: JobDraft, roles: list[RoleDraft]) -> None:
    """Fields that are the job's here."""
    for role in roles:
        for name, value in role.spec.items():
            if draft.spec.setdefault(name, value) != value:
                draft.wrong(f"{role.path}", f"{name} is one for all replicas: {value} is not {draft.spec[name]}")


def _restarts(draft: JobDraft, roles: list[RoleDraft]) -> None:
    """The policy of who leads; one that restarts implies some retries."""
    policies = [(role, role.restart_policy) for role in roles if role.restart_policy is not None]
    for role, policy in policies:
        if policy not in _POLICIES:
            draft.wrong(
                f"{role.path}.restartPolicy", f"unknown policy; the policies are {', '.join(sorted(_POLICIES))}"
            )
    if not policies:
        return
    chosen = policies[0][1]
    for role, policy in policies[1:]:
        if policy != chosen:
            draft.note(f"{role.path}.restartPolicy", f"the replicas of a job end and begin together: {chosen}")
    draft.spec["restart_policy"] = chosen
    if chosen == "Never":
        if draft.spec.pop("retries", None):
            draft.note("retries", "the policy is Never")
    else:
        draft.spec.setdefault("retries", _RESTARTS)


def _commands(draft: JobDraft, roles: list[RoleDraft]) -> None:
    if "command" in draft.spec:
        return
    if draft.kind == "MPIJob":
        for role in roles[1:]:
            if role.command is not None:
                draft.notes.append(f"{role.path}: its command is not run: the workers wait for the launcher's mpirun")
                role.command = None
    for role in roles:
        if role.command is None and draft.kind != "MPIJob":
            draft.wrong(role.path, "a command is needed: what the image would run by itself is not known here")
    if roles[0].command is None and draft.kind == "MPIJob":
        draft.wrong(roles[0].path, "the launcher needs a command, such as mpirun python train.py")
    draft.spec["command"] = roles[0].command


def _elastic(draft: JobDraft, roles: list[RoleDraft]) -> None:
    """Replicas that come and go are all alike; one that leads is one of them."""
    first = roles[0]
    for role in roles[1:]:
        if (role.command, role.shape, role.env) != (first.command, first.shape, first.env):
            draft.wrong(role.path, f"the replicas of an elastic job are alike: {role.name} is not as {first.name}")
    leaders = sum(role.replicas for role in roles if role.name in _LEADERS and len(roles) > 1)
    draft.spec |= first.shape | ({"env": first.env} if first.env else {})
    if draft.elastic is None:  # the cloud's batch jobs go on with whatever is there
        draft.spec["replicas"] = {"min": max(leaders, 1), "max": sum(role.replicas for role in roles)}
    else:
        least, most = draft.elastic
        draft.spec["replicas"] = {"min": least + leaders, "max": most + leaders}
