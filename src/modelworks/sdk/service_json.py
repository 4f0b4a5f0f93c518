"""The cloud's service JSON: a pure translation into a ``kind: Service`` manifest.

A key that is known and has no meaning here is accepted with a note; an unknown one is an error with its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.errors import Invalid
from modelworks.sdk import service_scaling
from modelworks.sdk.service_containers import containers, environment_of, storage
from modelworks.sdk.service_processors import OWN_SERVER, model_entry, own_code, processor
from modelworks.sdk.translation import Translation, noted, rolling

__all__ = ["Translation", "environment_of", "is_service_json", "translate"]

_BATCH_SIZE, _BATCH_DELAY = 16, 50  # the cloud's own defaults, the delay in milliseconds
_OWN_CODE = ("processor_path", "processor_entry", "processor_type", "processor_mainclass")
_MARKS = ("processor", "model_path", "containers", "cloud", "processor_path", "processor_type", "autoscaler")

# Known, without effect here: what a note says of each, or None to say nothing.
_NOTED: dict[str, str | None] = {
    "token": "a service gets a token of its own (`mw service token NAME`)",
    "model_config": "",
    "features": "",
    "dockerAuth": "podman or docker on the nodes must be logged in",
    "runtime": "",
    "unit": None,
    "oss_endpoint": None,
    "metadata.gpu_memory": "a GPU is not shared; resources.gpu_memory of a manifest is the least a GPU must have",
    "metadata.gpu_core_percentage": "a GPU is not shared",
    "metadata.shm_size": "/dev/shm is as large as the replica's memory",
    "metadata.disk": "",
    "metadata.qos": "",
    "metadata.group": "",
    "metadata.enable_grpc": "only HTTP passes the gateway",
    "metadata.resource": None,
    "metadata.workspace_id": None,
    "metadata.region": None,
    "metadata.enable_webservice": None,
    "metadata.rpc.io_threads": "",
    "metadata.rpc.proxy_path": "",
    "cloud.networking": "",
    "cloud.logging": "`mw service log NAME` shows the log",
    "networking.gateway": "there is one gateway",
    "networking.disable_internet_endpoint": "",
    "networking.vpc_id": None,
    "networking.vswitch_id": None,
    "networking.security_group_id": None,
}


def is_service_json(document: Mapping[str, Any]) -> bool:
    """Whether a document without a kind is the cloud's service JSON."""
    return "kind" not in document and any(key in document for key in _MARKS)


def translate(document: Mapping[str, Any]) -> Translation:
    """Service JSON → a Service's spec. Keys may be dotted. Raises Invalid with every unknown or wrong key's path."""
    out = Translation()
    document = _nested(document, out)
    for key, value in document.items():
        match key:
            case "name":
                out.name = str(value)
            case "model_path":
                out.once("model", str(value), key)
            case "model_entry":
                pass  # what it means is known when the processor is
            case "warm_up_data_path":
                out.spec["warm_up"] = str(value)
            case "processor":
                processor(value, out)
            case "metadata":
                _metadata(out.mapping(value, key), out)
            case "cloud":
                _cloud(out.mapping(value, key), out)
            case "networking":
                _networking(out.mapping(value, key), out)
            case "containers":
                containers(value, out)
            case "storage":
                storage(value, out)
            case "autoscaler" | "auto_scale":
                service_scaling.autoscaler(value, key, out)
            case "ScaleJobs":
                service_scaling.schedules(value, key, out)
            case "ExcludeDates":
                service_scaling.excluded(value, key, out)
            case "queue":
                _queue(out.mapping(value, key), out)
            case "labels":
                out.labels = {str(k): str(v) for k, v in out.mapping(value, key).items()}
            case _ if key in _OWN_CODE:
                pass  # read together below
            case _:
                noted(key, _NOTED, out)
    own_code(document, out)
    model_entry(document, out)
    service_scaling.finish(out)
    _finish_batching(out)
    _finish_warm_up(out)
    if out.errors:
        raise Invalid("the service configuration is wrong", fields=tuple(out.errors))
    return out


def _nested(document: Mapping[str, Any], out: Translation) -> dict[str, Any]:
    """``{"metadata.rpc.keepalive": 1}`` → ``{"metadata": {"rpc": {"keepalive": 1}}}``, merged with what is there."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        at = found
        *parents, last = str(key).split(".")
        for parent in parents:
            below = at.get(parent, {})
            if not isinstance(below, Mapping):
                out.wrong(str(key), f"{parent} is not a mapping")
                break
            at[parent] = at = dict(below)
        else:
            mappings = isinstance(value, Mapping) and isinstance(at.get(last), Mapping)
            at[last] = {**at[last], **value} if mappings else value
    return found


def _metadata(metadata: Mapping[str, Any], out: Translation) -> None:
    resources = out.spec.setdefault("resources", {})
    instances = metadata.get("instance", 1)
    for key, value in metadata.items():
        at = f"metadata.{key}"
        match key:
            case "name":
                out.name = str(value)
            case "instance":
                out.spec["replicas"] = value
            case "cpu" | "gpu":
                resources[key] = value
            case "memory":
                resources["memory"] = f"{value}Mi" if isinstance(value, int | float) else value
            case "type":
                _type(value, out)
            case "rpc":
                _rpc(out.mapping(value, at), out)
            case "auto_scale" | "autoscaler":
                service_scaling.autoscaler(value, at, out)
            case "min_replica" | "max_replica":
                service_scaling.block(out)[key[:3]] = value
            case "rolling_strategy":
                rolling(out.mapping(value, at), at, instances if isinstance(instances, int) else 1, out)
            case "eas":
                _eas(out.mapping(value, at), out)
            case _:
                noted(at, _NOTED, out)
    if not resources:
        del out.spec["resources"]


def _type(value: Any, out: Translation) -> None:
    """An asynchronous service answers 202 and works through its queue; every other type is an ordinary one."""
    if str(value).lower() == "async":
        out.spec.setdefault("tasks", {})
    elif str(value).lower() not in ("service", "standard", "scalablejob", "scalablejobservice"):
        out.note("metadata.type", f"it is an ordinary service, not {value}")


def _rpc(rpc: Mapping[str, Any], out: Translation) -> None:
    batching: dict[str, Any] = {}
    for key, value in rpc.items():
        at = f"metadata.rpc.{key}"
        match key:
            case "max_queue_size":
                out.spec.setdefault("queue", {})["size"] = value
            case "worker_threads":
                out.spec["concurrency"] = value
            case "keepalive":
                milliseconds = out.number(value, at)
                out.spec |= {"keepalive": milliseconds / 1000} if milliseconds is not None else {}
            case "rate_limit":
                out.spec |= {"rate_limit": value} if value else {}  # 0 is none
            case "batching":
                batching["on"] = value in (True, "true")
            case "max_batch_size":
                batching["max_batch_size"] = value
            case "max_batch_timeout":
                batching["max_batch_delay_ms"] = value
            case _:
                noted(at, _NOTED, out)
    if batching:
        out.spec["batching"] = batching


def _finish_batching(out: Translation) -> None:
    """Batching is done where it is switched on and our model server runs; the cloud's default is off."""
    wished = out.spec.pop("batching", None)
    if wished is None:
        return
    if not wished.pop("on", False):
        if wished:
            out.note("metadata.rpc.max_batch_size", "metadata.rpc.batching is not true")
        return
    chosen = out.spec.get("processor")
    if chosen is not None and chosen not in OWN_SERVER:
        out.note("metadata.rpc.batching", f"the processor {chosen} has its own")
        return
    out.spec["batching"] = {"max_batch_size": _BATCH_SIZE, "max_batch_delay_ms": _BATCH_DELAY} | wished


def _finish_warm_up(out: Translation) -> None:
    """Warming up is done where our model server runs; another server is ready when it says so itself."""
    chosen = out.spec.get("processor")
    if "warm_up" in out.spec and chosen is not None and chosen not in OWN_SERVER:
        del out.spec["warm_up"]
        out.note("warm_up_data_path", f"the processor {chosen} has a server of its own, which warms itself up")


def _eas(eas: Mapping[str, Any], out: Translation) -> None:
    for key, value in eas.items():
        if key == "termination_grace_period":
            seconds = out.number(value, f"metadata.eas.{key}")
            out.spec |= {"grace_period": f"{seconds:g}s"} if seconds is not None else {}
        else:
            out.note(f"metadata.eas.{key}", "")


def _cloud(cloud: Mapping[str, Any], out: Translation) -> None:
    for key, value in cloud.items():
        if key != "computing":
            noted(f"cloud.{key}", _NOTED, out)
            continue
        for name, choice in out.mapping(value, "cloud.computing").items():
            at = f"cloud.computing.{name}"
            if name == "instance_type":
                out.spec["instance_type"] = choice
            elif name == "instances":
                _instances(out.list(choice, at, "{type: …}"), at, out)
            elif name in ("disable_spot_protection_period", "prefer_spot"):
                out.note(at, "nodes here are not sold by the hour")
            else:
                out.unknown(at)


def _instances(choices: list[Any], at: str, out: Translation) -> None:
    """The first is taken: which nodes there are is known here."""
    for index, item in enumerate(choices):
        one = {"type": item} if isinstance(item, str) else out.mapping(item, f"{at}.{index}")
        for key, value in one.items():
            path = f"{at}.{index}.{key}"
            if key == "type" and index == 0:
                out.spec["instance_type"] = value
            elif key == "type":
                out.note(path, "the first instance type is taken")
            elif key == "spot_price_limit":
                out.note(path, "nodes here are not sold by the hour")
            elif key == "capacity":
                out.note(path, "replicas are placed where there is room")
            else:
                out.unknown(path)


def _networking(networking: Mapping[str, Any], out: Translation) -> None:
    for key, value in networking.items():
        if key != "gateway_policy":
            noted(f"networking.{key}", _NOTED, out)
            continue
        for name, limit in out.mapping(value, "networking.gateway_policy").items():
            at = f"networking.gateway_policy.{name}"
            if name not in ("rate_limit", "concurrency_limit"):
                out.unknown(at)
            elif not isinstance(limit, Mapping):
                out.spec[name] = limit
            elif limit.get("enable", True) and limit.get("limit") is not None:
                out.spec[name] = limit["limit"]


def _queue(queue: Mapping[str, Any], out: Translation) -> None:
    """The settings of an asynchronous service's queue; its own process needs no resources here."""
    tasks = out.spec.setdefault("tasks", {})
    for key, value in queue.items():
        if key == "max_delivery":
            tasks["attempts"] = value
        elif key in ("source", "sink"):
            for name, item in out.mapping(value, f"queue.{key}").items():
                if (key, name) == ("source", "max_length"):
                    tasks["max_pending"] = item
                else:
                    out.note(f"queue.{key}.{name}", "")
        else:
            out.note(f"queue.{key}", "one queue serves all services")
