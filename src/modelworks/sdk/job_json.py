"""The cloud's CreateJob JSON: a pure translation into a ``kind: TrainingJob`` manifest.

A key that is known and has no meaning here is noted, an unknown one is an error with its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.errors import Invalid
from modelworks.sdk.job_draft import FRAMEWORKS, KINDS, JobDraft, RoleDraft, finish
from modelworks.sdk.text import resource_name
from modelworks.sdk.translation import CODE_MOUNT, Notes, noted_field

_MARKS = ("JobSpecs", "UserCommand", "JobType")
_TOP: Notes = {
    "WorkspaceId": "a job is in the workspace of --workspace",
    "ResourceId": "the nodes of this platform are the only ones",
    "Accessibility": "", "CredentialConfig": "credentials of a TrainingJob gives AWS_* variables",
    "CodeSource": "the code is `code` of a TrainingJob, or a folder mounted at /ml/usercode",
    "DebuggerConfigContent": "", "Description": None, "Options": "", "SuccessPolicy": None, "TemplateId": "",
    "TemplateVersion": "", "ThirdpartyLibDir": "give the packages as ThirdpartyLibs", "UserVpc": None,
    "CustomEnvs": "write Envs",
}  # fmt: skip
_SPEC: Notes = {
    "ExtraPodSpec": "", "ImageConfig": "podman or docker on the nodes must be logged in", "AssignNodeSpec": "",
    "AutoScalingSpec": "write ElasticSpec", "LocalMountSpecs": "", "ServiceSpec": "", "StartupDependencies":
    "all replicas begin together", "SystemDisk": "", "IsChief": None, "IsCheif": None, "ResourceId": None,
}  # fmt: skip
_SETTINGS = (
    "AdvancedSettings", "BusinessUserId", "Caller", "DataJuicerConfig", "DisableEcsStockCheck", "Driver",
    "EnableCPUAffinity", "EnableDSWDev", "EnableErrorMonitoringInAIMaster", "EnableOssAppend", "EnableRDMA",
    "EnableSanityCheck", "EnableTideResource", "ErrorMonitoringArgs", "JobReservedMinutes", "JobReservedPolicy",
    "ModelConfig", "OversoldType", "PipelineId", "SanityCheckArgs",
)  # fmt: skip
_ELASTIC = (
    "AIMasterDockerImage", "AIMasterType", "EDPMaxParallelism", "EDPMinParallelism", "EnableAIMaster", "EnableEDP",
    "EnablePsJobElasticPS", "EnablePsJobElasticWorker", "EnablePsResourceEstimate", "PSMaxParallelism",
    "PSMinParallelism", "ElasticStrategy", "PSMaxReplicas",
)  # fmt: skip
_READ_ONLY = "read-only here: what is to stay goes to /mnt/output"


def is_job_json(document: Mapping[str, Any]) -> bool:
    """Whether a document without a kind is the cloud's CreateJob JSON."""
    return "kind" not in document and any(key in document for key in _MARKS)


def translate(document: Mapping[str, Any]) -> JobDraft:
    """The spec of a TrainingJob. Raises Invalid with the path of everything that cannot be taken over."""
    out = JobDraft(kind=str(document.get("JobType", "PyTorchJob")))
    if out.kind not in FRAMEWORKS:
        out.wrong("JobType", f"{out.kind} is not supported: {', '.join(KINDS)} are")
    for key, value in document.items():
        match key:
            case "DisplayName":
                out.name = resource_name(str(value))
            case "JobType":
                pass
            case "UserCommand":
                out.spec["command"] = value
            case "Envs":
                out.spec["env"] = {str(name): text for name, text in out.mapping(value, key).items()}
            case "JobMaxRunningTimeMinutes":
                minutes = out.number(value, key)
                out.spec |= {"time_limit": f"{minutes:g}m"} if minutes else {}  # 0 is none
            case "Priority":
                out.spec["priority"] = value
            case "ThirdpartyLibs":
                out.requirements = [str(line) for line in out.list(value, key, "packages")]
            case "DataSources":
                for index, item in enumerate(out.list(value, key, "{Uri: …, MountPath: …}")):
                    _data_source(out.mapping(item, f"{key}.{index}"), f"{key}.{index}", out)
            case "JobSpecs":
                for index, item in enumerate(out.list(value, key, "{Type: Worker, PodCount: …}")):
                    _job_spec(out.mapping(item, f"{key}.{index}"), f"{key}.{index}", out)
            case "ElasticSpec":
                _elastic_spec(out.mapping(value, key), out)
            case "Settings":
                _settings(out.mapping(value, key), out)
            case _:
                noted_field("", key, _TOP, out)
    if "command" not in out.spec:
        out.wrong("UserCommand", "is needed")
    if not out.roles:
        out.roles.append(RoleDraft("worker", "JobSpecs"))
    if not out.errors:
        _finish(out)
    if out.errors:
        raise Invalid("the job cannot be taken over as it is", fields=tuple(out.errors))
    return out


def _finish(out: JobDraft) -> None:
    env = out.spec.pop("env", {})
    for role in out.roles:
        role.env = env
    finish(out)
    if env and "roles" in out.spec:  # they are of all alike
        for role in out.spec["roles"]:
            role.pop("env", None)
        out.spec["env"] = env


def _data_source(source: Mapping[str, Any], at: str, out: JobDraft) -> None:
    place = str(source.get("MountPath") or "")
    if source.get("Uri"):
        out.mount_uri(str(source["Uri"]), place, f"{at}.Uri")
    elif source.get("DataSourceId"):
        read_only = source.get("MountAccess") == "RO"
        out.mount_name(str(source["DataSourceId"]), place, at, read_only=read_only)
    else:
        out.wrong(at, "write Uri, or DataSourceId: the name of a bucket or volume")
    access = source.get("MountAccess")
    if source.get("Uri") and "/output" not in place and place.rstrip("/") != CODE_MOUNT:
        if access == "RW":
            out.note(f"{at}.MountAccess", f"it is {_READ_ONLY}")
        elif access is None and (said := f"DataSources with a Uri are {_READ_ONLY}") not in out.notes:
            out.notes.append(said)
    for key in source:
        if key in ("Options", "EnableCache", "DataSourceVersion"):
            out.note(f"{at}.{key}", "")
        elif key not in ("Uri", "DataSourceId", "MountPath", "MountAccess"):
            out.unknown(f"{at}.{key}")


def _job_spec(spec: Mapping[str, Any], at: str, out: JobDraft) -> None:
    role = RoleDraft(name=str(spec.get("Type", "Worker")), path=at)
    if role.name == "AIMaster":
        out.note(at, "the platform itself looks after the replicas")
        return
    for key, value in spec.items():
        path = f"{at}.{key}"
        match key:
            case "Type":
                pass
            case "PodCount":
                role.replicas = value
            case "Image":
                role.image, role.image_path = str(value), path
            case "EcsSpec":
                role.shape.setdefault("instance_type", value)
            case "ResourceConfig":
                resources = _resources(out.mapping(value, path), path, out)
                if resources and spec.get("EcsSpec"):
                    out.note(path, "EcsSpec says it")
                elif resources:
                    role.shape["resources"] = resources
            case "SpotSpec":
                out.spec["spot"] = _spot(out.mapping(value, path), path, out)
            case "UseSpotInstance":
                out.spec |= {"spot": out.spec.get("spot", {})} if value in (True, "true") else {}
            case "RestartPolicy":
                role.restart_policy = str(value)
            case _:
                noted_field(at, key, _SPEC, out)
    out.roles.append(role)


def _resources(config: Mapping[str, Any], at: str, out: JobDraft) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if value in (None, ""):
            continue
        match key:
            case "CPU":
                found["cpu"] = value
            case "Memory":
                found["memory"] = f"{value}Gi" if str(value).isdigit() else value
            case "GPU":
                found |= {"gpu": int(value)} if str(value).isdigit() else {"gpu": value}
            case "GPUType":
                found["gpu_model"] = value
            case "SharedMemory":
                out.note(f"{at}.{key}", "/dev/shm is as large as the replica's memory")
            case _:
                out.unknown(f"{at}.{key}")
    return found


def _spot(spec: Mapping[str, Any], at: str, out: JobDraft) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in spec.items():
        if key == "SpotDiscountLimit":
            found["price_limit"] = value
        elif key == "SpotPriceLimit":
            out.note(f"{at}.{key}", "SpotDiscountLimit, a share of the catalogue's price, is the limit here")
        elif key != "SpotStrategy":
            out.unknown(f"{at}.{key}")
    if spec.get("SpotStrategy") == "SpotAsPriceGo":
        found.pop("price_limit", None)
    return found


def _elastic_spec(spec: Mapping[str, Any], out: JobDraft) -> None:
    least, most = spec.get("MinParallelism"), spec.get("MaxParallelism")
    for key in spec:
        if key in _ELASTIC:
            out.note(f"ElasticSpec.{key}", "")
        elif key not in ("MinParallelism", "MaxParallelism", "EnableElasticTraining"):
            out.unknown(f"ElasticSpec.{key}")
    if spec.get("EnableElasticTraining") in (True, "true") or (least and most):
        if not isinstance(least, int) or not isinstance(most, int):
            out.wrong("ElasticSpec", "write MinParallelism and MaxParallelism, numbers")
        else:
            out.elastic = (least, most)


def _settings(settings: Mapping[str, Any], out: JobDraft) -> None:
    for key, value in settings.items():
        if key == "Tags":
            out.labels = {str(k): str(v) for k, v in out.mapping(value, "Settings.Tags").items()}
        elif key in _SETTINGS:
            out.note(f"Settings.{key}", "")
        else:
            out.unknown(f"Settings.{key}")
