"""The cloud's service JSON, as far as it has a meaning here: a pure translation into a ``kind: Service`` manifest.

A key that is known and has no meaning here is accepted with a note; an unknown one is an error with its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelworks.kernel.errors import FieldError, Invalid

PROCESSORS = ("onnx", "python", "command")
_PORT = 8000

# Known, without effect here: what a note says of each, or None to say nothing.
_NOTED = {
    "token": "a service gets a token of its own (`mw service token NAME`)",
    "processor_path": "give the code as source_dir",
    "processor_mainclass": "",
    "processor_type": "",
    "model_config": "",
    "warm_up_data_path": "",
    "autoscaler": "the number of replicas is fixed: metadata.instance",
    "auto_scale": "the number of replicas is fixed: metadata.instance",
    "networking": "",
    "features": "",
    "metadata.gpu_memory": "",
    "metadata.gpu_core_percentage": "",
    "metadata.shm_size": "",
    "metadata.disk": "",
    "metadata.type": "",
    "metadata.qos": "",
    "metadata.auto_scale": "the number of replicas is fixed: metadata.instance",
    "metadata.min_replica": "the number of replicas is fixed: metadata.instance",
    "metadata.max_replica": "the number of replicas is fixed: metadata.instance",
    "metadata.rolling_strategy": "",
    "metadata.eas": "",
    "metadata.rpc.batching": "",
    "metadata.rpc.keepalive": "",
    "metadata.rpc.io_threads": "",
    "metadata.rpc.max_batch_size": "",
    "metadata.rpc.max_batch_timeout": "",
    "metadata.rpc.rate_limit": "",
    "metadata.rpc.proxy_path": "",
    "cloud.networking": "",
    "cloud.computing.instances": "write cloud.computing.instance_type",
    "oss_endpoint": None,
    "metadata.resource": None,
    "metadata.workspace_id": None,
    "metadata.region": None,
    "metadata.enable_webservice": None,
}


@dataclass
class Translation:
    """``spec`` of a Service, the ``name`` when the JSON has one, and ``notes`` for people."""

    spec: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: list[FieldError] = field(default_factory=list)

    def note(self, path: str, text: str) -> None:
        self.notes.append(f"{path} has no effect here" + (f": {text}" if text else ""))

    def unknown(self, path: str) -> None:
        self.errors.append(FieldError(path, "unknown field"))


def translate(document: Mapping[str, Any]) -> Translation:
    """Service JSON → a Service's spec. Raises Invalid with every unknown or wrong key's path."""
    out = Translation()
    for key, value in document.items():
        match key:
            case "name":
                out.name = str(value)
            case "model_path":
                out.spec["model"] = str(value)
            case "model_entry":
                out.spec["entry"] = str(value)
            case "processor_entry":
                out.spec["entry"] = str(value)
            case "processor":
                _processor(value, out)
            case "metadata":
                _metadata(_mapping(value, key, out), out)
            case "cloud":
                _cloud(_mapping(value, key, out), out)
            case "containers":
                _containers(value, out)
            case "storage":
                _storage(value, out)
            case "labels":
                out.labels = {str(k): str(v) for k, v in _mapping(value, key, out).items()}
            case _:
                _noted(key, out)
    if out.errors:
        raise Invalid("the service configuration is wrong", fields=tuple(out.errors))
    return out


def environment_of(image: str) -> str | dict[str, str]:
    """An image's short name may stand for an environment; one with a registry is an image."""
    return {"image": image} if "/" in image else image


def _processor(value: Any, out: Translation) -> None:
    if value in PROCESSORS:
        out.spec["processor"] = value
    else:
        known = ", ".join(PROCESSORS)
        out.errors.append(FieldError("processor", f"not a processor of this platform: {value!r}; one of {known}"))


def _metadata(metadata: Mapping[str, Any], out: Translation) -> None:
    resources = out.spec.setdefault("resources", {})
    for key, value in metadata.items():
        match key:
            case "name":
                out.name = str(value)
            case "instance":
                out.spec["replicas"] = value
            case "cpu" | "gpu":
                resources[key] = value
            case "memory":
                resources["memory"] = f"{value}Mi" if isinstance(value, int | float) else value
            case "rpc":
                _rpc(_mapping(value, "metadata.rpc", out), out)
            case _:
                _noted(f"metadata.{key}", out)
    if not resources:
        del out.spec["resources"]


def _rpc(rpc: Mapping[str, Any], out: Translation) -> None:
    for key, value in rpc.items():
        match key:
            case "max_queue_size":
                out.spec.setdefault("queue", {})["size"] = value
            case "worker_threads":
                out.spec["concurrency"] = value
            case _:
                _noted(f"metadata.rpc.{key}", out)


def _cloud(cloud: Mapping[str, Any], out: Translation) -> None:
    for key, value in cloud.items():
        if key != "computing":
            _noted(f"cloud.{key}", out)
            continue
        for name, choice in _mapping(value, "cloud.computing", out).items():
            if name == "instance_type":
                out.spec["instance_type"] = choice
            else:
                _noted(f"cloud.computing.{name}", out)


def _containers(value: Any, out: Translation) -> None:
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], Mapping):
        out.errors.append(FieldError("containers", "write a list of one container"))
        return
    out.spec["processor"] = "command"
    requirements: list[str] = []
    for key, item in value[0].items():
        at = f"containers.0.{key}"
        match key:
            case "image":
                out.spec["environment"] = environment_of(str(item))
            case "command" | "script":
                out.spec["command"] = item
            case "port":
                if item != _PORT:
                    out.note(at, "the server is told its port by $PORT")
            case "env":
                out.spec["env"] = _env(item, at, out)
            case "prepare":
                for name, choice in _mapping(item, at, out).items():
                    if name == "pythonRequirements" and isinstance(choice, list):
                        requirements = [str(line) for line in choice]
                    elif name == "pythonRequirementsPath":
                        out.note(f"{at}.{name}", "give the packages as requirements")
                    else:
                        out.unknown(f"{at}.{name}")
            case "health_check":
                out.spec["readiness"] = _health_check(_mapping(item, at, out), at, out)
            case "name":
                pass
            case _:
                out.unknown(at)
    if requirements:
        image = out.spec.pop("environment", None)
        out.spec["environment"] = {"requirements": requirements}
        if image:
            out.note("containers.0.image", "the packages of prepare.pythonRequirements make the environment")


def _env(value: Any, at: str, out: Translation) -> dict[str, str]:
    variables: dict[str, str] = {}
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, Mapping) and "name" in item:
            variables[str(item["name"])] = str(item.get("value", ""))
        else:
            out.errors.append(FieldError(f"{at}.{index}", "write {name: …, value: …}"))
    if not isinstance(value, list):
        out.errors.append(FieldError(at, "write a list of {name: …, value: …}"))
    return variables


def _health_check(check: Mapping[str, Any], at: str, out: Translation) -> dict[str, Any]:
    """The cloud's probe (also in Kubernetes' spelling) as ``readiness``."""
    seconds = {
        "timeout_seconds": "timeout", "timeoutSeconds": "timeout",
        "period_seconds": "period", "periodSeconds": "period",
    }  # fmt: skip
    found: dict[str, Any] = {}
    for key, value in check.items():
        if key in ("path", "failures"):
            found[key] = value
        elif key in seconds:
            found[seconds[key]] = f"{value}s"
        elif key in ("failure_threshold", "failureThreshold"):
            found["failures"] = value
        elif key in ("http_get", "httpGet"):
            found["path"] = _mapping(value, f"{at}.{key}", out).get("path", "/health")
        elif key in (
            "initial_delay_seconds",
            "initialDelaySeconds",
            "success_threshold",
            "successThreshold",
            "tcp_socket",
        ):
            out.note(f"{at}.{key}", "")
        else:
            out.unknown(f"{at}.{key}")
    return found


def _storage(value: Any, out: Translation) -> None:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        at = f"storage.{index}"
        if not isinstance(item, Mapping):
            out.errors.append(FieldError(at, "write {mount_path: …, oss: {path: …}}"))
            continue
        oss = item.get("oss")
        path = str(item.get("mount_path", ""))
        if isinstance(oss, Mapping) and oss.get("path"):
            if path.rstrip("/") in ("/mnt/model", "/eas/workspace/model", "/ml/model", "/model"):
                out.spec["model"] = str(oss["path"])
            elif path.rstrip("/") == "/ml/usercode":
                out.spec["code"] = str(oss["path"])
            else:
                where = "a model is mounted at /mnt/model, code at /ml/usercode"
                out.errors.append(FieldError(f"{at}.mount_path", f"{path} cannot hold an object store folder: {where}"))
        elif "volume" in item:
            out.spec.setdefault("volumes", []).append({"name": str(item["volume"]), "mount_path": path})
        elif "empty_dir" in item:
            out.note(f"{at}.empty_dir", "/tmp is private to each replica")
        else:
            out.errors.append(FieldError(at, "only oss.path, volume and empty_dir are mounted here"))


def _mapping(value: Any, path: str, out: Translation) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    out.errors.append(FieldError(path, f"a mapping is wanted here, not {type(value).__name__}"))
    return {}


def _noted(path: str, out: Translation) -> None:
    if path not in _NOTED:
        out.unknown(path)
        return
    text = _NOTED[path]
    if text is not None:
        out.note(path, text)
