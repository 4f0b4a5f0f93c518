"""Kubeflow's and the cloud's job kinds in YAML (PyTorchJob, TFJob, MPIJob, ElasticBatchJob): a pure translation.

A key that is known and has no meaning here is noted, an unknown one is an error with its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.errors import Invalid
from modelworks.sdk import kubernetes
from modelworks.sdk.job_draft import KINDS, JobDraft, RoleDraft, finish
from modelworks.sdk.translation import Notes, metadata, noted_field, pod_volumes, variables

_GROUPS = ("kubeflow.org/", "training.pai.alibaba.com/", "training.kubedl.io/")
_REPLICA_SPECS = {
    "pytorchReplicaSpecs": "PyTorchJob",
    "tfReplicaSpecs": "TFJob",
    "mpiReplicaSpecs": "MPIJob",
    "elasticBatchReplicaSpecs": "ElasticBatchJob",
}
_TOP: Notes = {"apiVersion": None, "status": None}
_METADATA: Notes = {
    "annotations": "", "namespace": "a job is in the workspace of --workspace", "uid": None, "resourceVersion": None,
    "generation": None, "creationTimestamp": None, "managedFields": None, "generateName": "a job has a name",
}  # fmt: skip
_JOB: Notes = {
    "cleanPodPolicy": None, "successPolicy": None, "mpiImplementation": None,
    "ttlSecondsAfterFinished": "a job stays until it is deleted (`mw job delete NAME`)",
    "mainContainer": None, "sshAuthMountPath": "the replicas need no ssh", "launcherCreationPolicy": None,
    "enableDynamicWorker": "a job has the replicas that it says; replicas {min, max} of a TrainingJob is elastic",
    "suspend": "a job is queued as soon as it is applied", "managedBy": None, "modelVersion": "",
}  # fmt: skip
_RUN_POLICY: Notes = {
    "cleanPodPolicy": None, "managedBy": None,
    "ttlSecondsAfterFinished": "a job stays until it is deleted (`mw job delete NAME`)",
    "suspend": "a job is queued as soon as it is applied",
}  # fmt: skip
_SCHEDULING: Notes = {
    "minAvailable": "all replicas are placed together", "queue": "there is one queue", "minResources": None,
    "priorityClass": "write priority, a number, in a TrainingJob", "scheduleTimeoutSeconds": "a job waits for its room",
}  # fmt: skip
_ELASTIC: Notes = {
    "rdzvBackend": None, "rdzvPort": None, "rdzvHost": None, "rdzvId": None, "rdzvConf": "", "standalone": None,
    "metrics": "the replicas are as many as there is room for",
}  # fmt: skip
_POD: Notes = {
    "restartPolicy": None, "volumes": None, "hostNetwork": None, "hostIPC": "", "dnsPolicy": "",
    "imagePullSecrets": "podman or docker on the nodes must be logged in", "serviceAccountName": "",
    "serviceAccount": "", "automountServiceAccountToken": "", "affinity": "write nodeSelector",
    "topologySpreadConstraints": "", "securityContext": "each workload has a user and a sandbox of its own",
    "priorityClassName": "write priority, a number, in a TrainingJob", "schedulerName": "", "runtimeClassName": "",
    "enableServiceLinks": None, "hostname": "", "subdomain": "", "nodeName": "write nodeSelector",
}  # fmt: skip
_CONTAINER: Notes = {
    "name": None, "imagePullPolicy": "an image is fetched when it is not there", "ports": None,
    "securityContext": "each workload has a user and a sandbox of its own", "workingDir": "a job works in /ml/usercode",
    "lifecycle": "", "terminationMessagePath": None, "terminationMessagePolicy": None, "stdin": "", "tty": "",
    "readinessProbe": "", "livenessProbe": "watchdog looks after a job that does nothing", "startupProbe": "",
    "volumeDevices": "",
}  # fmt: skip
_MEMORY = "/dev/shm"


def is_job(document: Mapping[str, Any]) -> bool:
    """Whether a document is a job of Kubeflow or the cloud."""
    return document.get("kind") in KINDS


def translate(document: Mapping[str, Any]) -> JobDraft:
    """The spec of a TrainingJob. Raises Invalid with the path of everything that cannot be taken over."""
    out = JobDraft(kind=str(document["kind"]))
    version = str(document.get("apiVersion", "kubeflow.org/v1"))
    if not version.startswith(_GROUPS):
        out.wrong("apiVersion", f"{version} is not known: write kubeflow.org/v1 or training.pai.alibaba.com/v1")
    for key, value in document.items():
        if key == "metadata":
            metadata(out.mapping(value, key), _METADATA, out)
        elif key == "spec":
            _job(out.mapping(value, key), out)
        elif key != "kind":
            noted_field("", key, _TOP, out)
    if not out.errors:
        finish(out)
    if out.errors:
        raise Invalid(f"the {out.kind} cannot be taken over as it is", fields=tuple(out.errors))
    return out


def _job(spec: Mapping[str, Any], out: JobDraft) -> None:
    for key, value in spec.items():
        at = f"spec.{key}"
        match key:
            case _ if key in _REPLICA_SPECS:
                if _REPLICA_SPECS[key] != out.kind and out.kind != "ElasticBatchJob":
                    out.wrong(at, f"this is of a {_REPLICA_SPECS[key]}, and the kind is {out.kind}")
                for name, role in out.mapping(value, at).items():
                    _role(str(name), out.mapping(role, f"{at}.{name}"), f"{at}.{name}", out)
            case "runPolicy":
                _run_policy(out.mapping(value, at), at, out)
            case "backoffLimit":
                out.spec["retries"] = value
            case "activeDeadlineSeconds":
                out.spec["time_limit"] = f"{value}s"
            case "elasticPolicy":
                _elastic_policy(out.mapping(value, at), at, out)
            case "nprocPerNode":
                if str(value).isdigit():
                    out.spec["processes"] = int(value)
                elif value not in ("auto", "gpu", "cpu"):
                    out.wrong(at, "write a number, auto, cpu or gpu")
            case "slotsPerWorker":
                out.spec["processes"] = value
            case "mpiImplementation" if value != "OpenMPI":
                out.wrong(at, f"{value} is not supported: OpenMPI is")
            case "runLauncherAsWorker":
                if value:
                    out.note(at, "a TrainingJob with replicas and no roles computes on all of them")
            case _:
                noted_field("spec", key, _JOB, out)


def _run_policy(policy: Mapping[str, Any], at: str, out: JobDraft) -> None:
    for key, value in policy.items():
        if key == "backoffLimit":
            out.spec["retries"] = value
        elif key == "activeDeadlineSeconds":
            out.spec["time_limit"] = f"{value}s"
        elif key == "schedulingPolicy":
            for name in out.mapping(value, f"{at}.{key}"):
                noted_field(f"{at}.{key}", str(name), _SCHEDULING, out)
        else:
            noted_field(at, key, _RUN_POLICY, out)


def _elastic_policy(policy: Mapping[str, Any], at: str, out: JobDraft) -> None:
    least, most = policy.get("minReplicas", 1), policy.get("maxReplicas")
    if not isinstance(least, int) or not isinstance(most, int):
        out.wrong(at, "write minReplicas and maxReplicas, numbers")
        return
    out.elastic = (least, most)
    for key, value in policy.items():
        if key == "maxRestarts":
            out.spec.setdefault("retries", value)
        elif key == "nProcPerNode":
            out.spec["processes"] = value
        elif key not in ("minReplicas", "maxReplicas"):
            noted_field(at, key, _ELASTIC, out)


def _role(name: str, document: Mapping[str, Any], at: str, out: JobDraft) -> None:
    if name == "AIMaster":
        out.note(at, "the platform itself looks after the replicas")
        return
    role = RoleDraft(name=name, path=at)
    for key, value in document.items():
        match key:
            case "replicas":
                role.replicas = value
            case "restartPolicy":
                role.restart_policy = str(value)
            case "template":
                for part, item in out.mapping(value, f"{at}.template").items():
                    if part == "spec":
                        _pod(out.mapping(item, f"{at}.template.spec"), f"{at}.template.spec", role, out)
                    elif part != "metadata":
                        out.unknown(f"{at}.template.{part}")
            case _:
                out.unknown(f"{at}.{key}")
    out.roles.append(role)


def _pod(pod: Mapping[str, Any], at: str, role: RoleDraft, out: JobDraft) -> None:
    volumes = pod_volumes(pod, at, out)
    for key, value in pod.items():
        path = f"{at}.{key}"
        match key:
            case "containers":
                found = out.list(value, path, "one container")
                if len(found) == 1:
                    _container(out.mapping(found[0], f"{path}.0"), f"{path}.0", volumes, role, out)
                else:
                    out.wrong(path, f"a replica is one container, not {len(found)}")
            case "initContainers":
                out.wrong(path, "there is nothing that runs before a replica: put it into its command, or the image")
            case "nodeSelector":
                role.spec["node_selector"] = {str(k): str(v) for k, v in out.mapping(value, path).items()}
            case "tolerations":
                scratch = out.scratch()
                kubernetes.tolerations(out.list(value, path, "tolerations"), path, scratch)
                role.spec |= scratch.spec
            case "terminationGracePeriodSeconds":
                role.spec["grace_period"] = f"{value}s"
            case "priority":
                role.spec["priority"] = value
            case _:
                noted_field(at, key, _POD, out)


def _container(
    container: Mapping[str, Any], at: str, volumes: Mapping[str, Mapping[str, Any]], role: RoleDraft, out: JobDraft
) -> None:
    words: dict[str, list[str]] = {}
    for key, value in container.items():
        path = f"{at}.{key}"
        match key:
            case "image":
                role.image, role.image_path = str(value), path
            case "command" | "args":
                words[key] = [str(part) for part in out.list(value, path, "arguments")]
            case "env":
                role.env = variables(value, path, out)
            case "envFrom":
                out.wrong(path, "there are no config maps and secrets: write env with values")
            case "resources":
                scratch = out.scratch()
                kubernetes.resources(out.mapping(value, path), path, scratch)
                role.shape = scratch.spec
            case "volumeMounts":
                for index, item in enumerate(out.list(value, path, "mounts")):
                    _mount(out.mapping(item, f"{path}.{index}"), f"{path}.{index}", volumes, out)
            case _:
                noted_field(at, key, _CONTAINER, out)
    if words.get("args") and not words.get("command"):
        out.wrong(f"{at}.args", "what the image would run by itself is not known here: write command")
    elif words.get("command"):
        role.command = [*words["command"], *words.get("args", [])]


def _mount(mount: Mapping[str, Any], at: str, volumes: Mapping[str, Mapping[str, Any]], out: JobDraft) -> None:
    volume, place = volumes.get(str(mount.get("name"))), str(mount.get("mountPath", "")).rstrip("/")
    if mount.get("subPath"):
        out.wrong(f"{at}.subPath", "a volume is mounted whole: write inputs of a TrainingJob, with a prefix")
        return
    if volume is None:
        out.wrong(f"{at}.name", f"there is no volume {mount.get('name')!r}")
        return
    claim = volume.get("persistentVolumeClaim")
    if isinstance(claim, Mapping):
        read_only = bool(mount.get("readOnly") or claim.get("readOnly"))
        out.mount_name(str(claim.get("claimName")), place, at, read_only=read_only)
    elif "emptyDir" in volume:
        if place != _MEMORY:  # which is as large as the replica's memory by itself
            out.note(at, "write to /tmp, which is private to each replica")
    else:
        kind = next((key for key in volume if key != "name"), "volume")
        out.wrong(at, f"a {kind} cannot be mounted: use a bucket, or a volume (`mw volume create`)")
