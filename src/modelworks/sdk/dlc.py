"""The flags of the cloud's `dlc submit` as its CreateJob JSON, and that as a TrainingJob. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.sdk import job_json
from modelworks.sdk.job_draft import JobDraft

KINDS = {
    "pytorchjob": "PyTorchJob",
    "tfjob": "TFJob",
    "mpijob": "MPIJob",
    "elasticbatchjob": "ElasticBatchJob",
    "trainingjob": "PyTorchJob",
}
ROLES = {
    "launchers": "launcher",
    "masters": "master",
    "chiefs": "chief",
    "workers": "worker",
    "ps": "ps",
    "evaluators": "evaluator",
}
"""The flag of a role's number, and what its other flags begin with: ``--workers 2 --worker-cpu 4``."""
PARTS = {"image": "Image", "spec": "EcsSpec"}
RESOURCES = {"cpu": "CPU", "memory": "Memory", "gpu": "GPU", "gpu_type": "GPUType", "shared_memory": "SharedMemory"}


def translate(kind: str, flags: Mapping[str, Any]) -> JobDraft:
    """``flags`` by their names with ``_``, those that were given. Raises Invalid with the flag of what is wrong."""
    if kind.lower() not in KINDS:
        said = f"there is no job kind {kind}; the kinds are {', '.join(KINDS)}"
        raise Invalid(said, fields=(FieldError("KIND", said),))
    needed = [name for name in ("name", "command") if not flags.get(name)]
    if needed:
        fields = tuple(FieldError(f"--{name}", "is needed") for name in needed)
        raise Invalid(f"mw job submit {kind} needs {' and '.join(f'--{name}' for name in needed)}", fields=fields)
    document, places = create_job(KINDS[kind.lower()], flags)
    try:
        return job_json.translate(document)
    except Invalid as error:
        fields = tuple(FieldError(_flag(field.path, places), field.message) for field in error.fields)
        raise Invalid(error.detail, fields=fields, remedy=error.remedy) from None


def create_job(job_type: str, flags: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The CreateJob JSON, and the flag that each of its paths came from."""
    document: dict[str, Any] = {"JobType": job_type}
    places: dict[str, str] = {}

    def put(key: str, flag: str, value: Any) -> None:
        document[key] = value
        places[key] = flag

    for flag, key in _PLAIN.items():
        if flags.get(flag) is not None:
            put(key, flag, flags[flag])
    for flag, key in _LISTS.items():
        if flags.get(flag):
            put(key, flag, [item.strip() for item in str(flags[flag]).split(",") if item.strip()])
    if flags.get("envs"):
        put("Envs", "envs", _pairs(flags["envs"], "envs"))
    if flags.get("tags"):
        put("Settings", "tags", {"Tags": _pairs(flags["tags"], "tags")})
    if flags.get("data_sources"):
        put("DataSources", "data_sources", [_source(text) for text in str(flags["data_sources"]).split(",") if text])
    specs: list[dict[str, Any]] = []
    for flag, role in ROLES.items():
        spec = _role(role, flags.get(flag), flags)
        if spec is not None:
            places[f"JobSpecs.{len(specs)}"] = flag
            specs.append(spec)
    if specs:
        document["JobSpecs"] = specs
    return document, places


_PLAIN = {
    "name": "DisplayName",
    "command": "UserCommand",
    "priority": "Priority",
    "resource_id": "ResourceId",
    "job_max_running_time_minutes": "JobMaxRunningTimeMinutes",
    "success_policy": "SuccessPolicy",
    "thirdparty_lib_dir": "ThirdpartyLibDir",
}
_LISTS = {"thirdparty_libs": "ThirdpartyLibs"}


def _role(role: str, count: int | None, flags: Mapping[str, Any]) -> dict[str, Any] | None:
    given = {name: flags[f"{role}_{name}"] for name in (*PARTS, *RESOURCES) if flags.get(f"{role}_{name}") is not None}
    if count is None and not given:
        return None
    spec: dict[str, Any] = {"Type": role.capitalize(), "PodCount": 1 if count is None else count}
    spec |= {PARTS[name]: value for name, value in given.items() if name in PARTS}
    config = {RESOURCES[name]: value for name, value in given.items() if name in RESOURCES}
    return spec | ({"ResourceConfig": config} if config else {})


def _pairs(text: str, flag: str) -> dict[str, str]:
    """``A=1,B=2``. A part without ``=`` belongs to the value before it, which held a comma."""
    found: dict[str, str] = {}
    last = None
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals:
            last = name.strip()
            found[last] = value
        elif last is not None:
            found[last] += f",{part}"
        else:
            raise Invalid(
                f"--{flag}: {part!r} is no NAME=VALUE", fields=(FieldError(f"--{flag}", "write NAME=VALUE,NAME=VALUE"),)
            )
    return found


def _source(text: str) -> dict[str, str]:
    """``oss://bucket/data/:/mnt/data``, or the name of a bucket or volume, each with or without a path."""
    head, colon, path = text.strip().rpartition(":")
    named, place = (head, path) if colon and path.startswith("/") and not path.startswith("//") else (text.strip(), "")
    key = "Uri" if "://" in named else "DataSourceId"
    return {key: named} | ({"MountPath": place} if place else {})


def _flag(path: str, places: Mapping[str, str]) -> str:
    found = max((key for key in places if path == key or path.startswith(f"{key}.")), key=len, default=None)
    return path if found is None else f"--{places[found]}"
