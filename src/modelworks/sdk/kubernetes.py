"""A Kubernetes ``apps/v1`` Deployment as a ``kind: Service`` manifest: a pure translation.

What has no meaning here is noted, what cannot be given (a secret, a second container) or is not known is an error with
its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.errors import Invalid
from modelworks.sdk.service_containers import place
from modelworks.sdk.translation import (
    MODEL_MOUNTS,
    PORT_ANSWERS,
    Notes,
    Translation,
    metadata,
    noted,
    pod_volumes,
    probe,
    rolling,
    startup,
    variables,
)

_POD = "spec.template.spec"
_AT = f"{_POD}.containers.0"
_GPUS = ("nvidia.com/gpu", "aliyun.com/gpu")

_METADATA: Notes = {
    "annotations": "",
    "namespace": "a service is in the workspace of --workspace",
    "uid": None,
    "resourceVersion": None,
    "generation": None,
    "creationTimestamp": None,
    "managedFields": None,
}
_NOTED: Notes = {
    "apiVersion": None,
    "kind": None,
    "status": None,
    "spec.selector": None,
    "spec.minReadySeconds": "a replica serves as soon as it is ready",
    "spec.revisionHistoryLimit": "revisions are kept",
    "spec.progressDeadlineSeconds": "readiness.startup says how long a replica may take",
    "spec.template.metadata": None,
    f"{_POD}.restartPolicy": None,
    f"{_POD}.imagePullSecrets": "podman or docker on the nodes must be logged in",
    f"{_POD}.serviceAccountName": "",
    f"{_POD}.serviceAccount": "",
    f"{_POD}.automountServiceAccountToken": "",
    f"{_POD}.affinity": "write nodeSelector",
    f"{_POD}.topologySpreadConstraints": "",
    f"{_POD}.securityContext": "each workload has a user and a sandbox of its own",
    f"{_POD}.priorityClassName": "",
    f"{_POD}.schedulerName": "",
    f"{_POD}.runtimeClassName": "",
    f"{_POD}.dnsPolicy": "",
    f"{_POD}.enableServiceLinks": None,
    f"{_AT}.imagePullPolicy": "an image is fetched when it is not there",
    f"{_AT}.securityContext": "each workload has a user and a sandbox of its own",
    f"{_AT}.lifecycle": "a replica is drained before it is ended: grace_period",
    f"{_AT}.terminationMessagePath": None,
    f"{_AT}.terminationMessagePolicy": None,
    f"{_AT}.workingDir": "the image's own, or /ml/usercode",
    f"{_AT}.stdin": "",
    f"{_AT}.tty": "",
}


def is_deployment(document: Mapping[str, Any]) -> bool:
    return document.get("kind") == "Deployment" and str(document.get("apiVersion", "")).startswith("apps/")


def is_endpoint(document: Mapping[str, Any]) -> bool:
    """Kubernetes' own Service, which gives pods an address: every service here has one by itself."""
    return document.get("kind") == "Service" and document.get("apiVersion") == "v1"


def translate(document: Mapping[str, Any]) -> Translation:
    """Raises Invalid with the path of everything that cannot be taken over."""
    out = Translation()
    for key, value in document.items():
        if key == "metadata":
            metadata(out.mapping(value, key), _METADATA, out)
        elif key == "spec":
            _deployment(out.mapping(value, key), out)
        else:
            noted(key, _NOTED, out)
    if not out.errors and "processor" not in out.spec:
        out.wrong(f"{_POD}.containers", "a container with an image is needed")
    if out.errors:
        raise Invalid("the Deployment cannot be taken over as it is", fields=tuple(out.errors))
    return out


def _deployment(spec: Mapping[str, Any], out: Translation) -> None:
    replicas = spec.get("replicas", 1)
    for key, value in spec.items():
        at = f"spec.{key}"
        match key:
            case "replicas":
                out.spec["replicas"] = value
            case "paused":
                if value:
                    out.note(at, "`mw service stop NAME` stops a service")
            case "strategy":
                _strategy(out.mapping(value, at), replicas if isinstance(replicas, int) else 1, out)
            case "template":
                for name, item in out.mapping(value, at).items():
                    if name == "spec":
                        _pod(out.mapping(item, _POD), out)
                    else:
                        noted(f"{at}.{name}", _NOTED, out)
            case _:
                noted(at, _NOTED, out)


def _strategy(strategy: Mapping[str, Any], replicas: int, out: Translation) -> None:
    for key, value in strategy.items():
        at = f"spec.strategy.{key}"
        if key == "type" and value == "Recreate":
            out.spec["rolling"] = {"max_surge": 0, "max_unavailable": max(1, replicas)}
        elif key == "rollingUpdate":
            rolling(out.mapping(value, at), at, replicas, out)
        elif key != "type":
            out.unknown(at)


def _pod(pod: Mapping[str, Any], out: Translation) -> None:
    volumes = pod_volumes(pod, _POD, out)
    for key, value in pod.items():
        at = f"{_POD}.{key}"
        match key:
            case "containers":
                found = out.list(value, at, "one container")
                if len(found) == 1:
                    _container(out.mapping(found[0], _AT), volumes, out)
                else:
                    out.wrong(at, f"a replica is one container, not {len(found)}")
            case "initContainers":
                out.wrong(at, "there is nothing that runs before a replica: put it into its command, or into the image")
            case "nodeSelector":
                out.spec["node_selector"] = {str(k): str(v) for k, v in out.mapping(value, at).items()}
            case "tolerations":
                tolerations(out.list(value, at, "tolerations"), at, out)
            case "terminationGracePeriodSeconds":
                out.spec["grace_period"] = f"{value}s"
            case "hostNetwork":
                out.spec |= {"network": "host"} if value else {}
            case "volumes":
                pass
            case _:
                noted(at, _NOTED, out)


def tolerations(written: list[Any], at: str, out: Translation) -> None:
    """A taint here is ``key`` or ``key=value``; whether it evicts is not told apart."""
    found = []
    for index, item in enumerate(written):
        path = f"{at}.{index}"
        one = out.mapping(item, path)
        for key in one:
            if key == "tolerationSeconds":
                out.note(f"{path}.{key}", "")
            elif key not in ("key", "operator", "value", "effect"):
                out.unknown(f"{path}.{key}")
        if "key" not in one:
            out.wrong(path, "name the key: there is no toleration of every taint")
        elif one.get("value") not in (None, "") and one.get("operator", "Equal") == "Equal":
            found.append(f"{one['key']}={one['value']}")
        else:
            found.append(str(one["key"]))
    if found:
        out.spec["tolerations"] = found


def _container(container: Mapping[str, Any], volumes: Mapping[str, Mapping[str, Any]], out: Translation) -> None:
    if container.get("image"):
        out.spec |= place(str(container["image"]))
    for key, value in container.items():
        at = f"{_AT}.{key}"
        match key:
            case "image" | "name" | "startupProbe":
                pass
            case "command" | "args":
                out.spec[key] = [str(part) for part in out.list(value, at, "arguments")]
            case "ports":
                _ports(out.list(value, at, "ports"), at, out)
            case "env":
                out.spec["env"] = variables(value, at, out)
            case "envFrom":
                out.wrong(at, "there are no config maps and secrets: write env with values")
            case "resources":
                resources(out.mapping(value, at), at, out)
            case "readinessProbe":
                out.spec.setdefault("readiness", {}).update(probe(out.mapping(value, at), at, out))
            case "livenessProbe":
                if "readinessProbe" in container:
                    out.note(at, "readinessProbe is asked as long as the replica lives")
                else:
                    out.spec.setdefault("readiness", {}).update(probe(out.mapping(value, at), at, out))
            case "volumeMounts":
                _mounts(out.list(value, at, "mounts"), at, volumes, out)
            case _:
                noted(at, _NOTED, out)
    _startup(container, out)
    if "path" not in out.spec.get("readiness", {}):
        out.spec.setdefault("readiness", {}).update(PORT_ANSWERS)
        out.notes.append(
            f"{_AT} has no probe: a replica is ready when its port answers a GET of /, with whatever status"
        )
    _one_command(out)


def _startup(container: Mapping[str, Any], out: Translation) -> None:
    check = container.get("startupProbe")
    if check is None:
        return
    readiness = out.spec.setdefault("readiness", {})
    probed = probe(out.mapping(check, f"{_AT}.startupProbe"), f"{_AT}.startupProbe", out)
    if "path" not in readiness:
        readiness |= {key: probed[key] for key in ("path", "status") if key in probed}
    lasts = startup(check) if isinstance(check, Mapping) else None
    readiness |= {"startup": lasts} if lasts else {}


def _one_command(out: Translation) -> None:
    """In an environment there is no entry point that arguments could be for."""
    command, args = out.spec.get("command"), out.spec.get("args")
    if out.spec.get("processor") == "image" and not command:
        return
    if args and not command:
        out.wrong(f"{_AT}.args", "the image stands for an environment, which has no entry point: write command")
    elif command:
        out.spec["command"] = [*command, *(args or ())]
        out.spec.pop("args", None)


def _ports(ports: list[Any], at: str, out: Translation) -> None:
    """The one that is called http, else the first."""
    found = [out.mapping(item, f"{at}.{index}") for index, item in enumerate(ports)]
    chosen = next((port for port in found if port.get("name") == "http"), found[0] if found else None)
    if chosen is not None and "containerPort" in chosen:
        out.spec["port"] = chosen["containerPort"]
    for index, port in enumerate(found):
        if port is not chosen:
            out.note(f"{at}.{index}", "one port is served")


def resources(written: Mapping[str, Any], at: str, out: Translation) -> None:
    """Limits, and requests where there is no limit."""
    for key in written:
        if key not in ("limits", "requests"):
            out.note(f"{at}.{key}", "")
    found: dict[str, Any] = {}
    for group in ("requests", "limits"):
        for name, amount in out.mapping(written.get(group, {}), f"{at}.{group}").items():
            if name in ("cpu", "memory"):
                found[name] = amount
            elif name in _GPUS:
                found["gpu"] = int(amount) if str(amount).isdigit() else amount
            else:
                out.note(f"{at}.{group}.{name}", "")
    if found:
        out.spec["resources"] = found


def _mounts(mounts: list[Any], at: str, volumes: Mapping[str, Mapping[str, Any]], out: Translation) -> None:
    for index, item in enumerate(mounts):
        path = f"{at}.{index}"
        mount = out.mapping(item, path)
        volume, place = volumes.get(str(mount.get("name"))), str(mount.get("mountPath", ""))
        claim = volume.get("persistentVolumeClaim") if volume else None
        if volume is None:
            out.wrong(f"{path}.name", f"there is no volume {mount.get('name')!r}")
        elif isinstance(claim, Mapping):
            one = {"name": str(claim.get("claimName")), "mount_path": place}
            out.spec.setdefault("volumes", []).append(one | ({"read_only": True} if mount.get("readOnly") else {}))
        elif "emptyDir" in volume:
            out.note(path, "/tmp and /dev/shm are private to each replica")
        else:
            kind = next((key for key in volume if key != "name"), "volume")
            models = " or ".join(MODEL_MOUNTS[:2])
            out.wrong(path, f"a {kind} cannot be mounted: use a volume (`mw volume create`), or model at {models}")
