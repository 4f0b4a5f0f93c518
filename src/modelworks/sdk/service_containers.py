"""The cloud's ``containers`` and ``storage``: any HTTP server, in an environment or an image, and its mounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.sdk.translation import (
    CODE_MOUNT,
    MODEL_MOUNTS,
    Notes,
    Translation,
    noted_field,
    probe,
    startup,
    variables,
)

_PROBES = ("health_check", "readiness_check", "liveness_check")
_MODEL_PLACES = MODEL_MOUNTS[:2]  # where a service has its model; at the others it has a mount of it
_STORES = ("s3://", "oss://")
# The kinds of a mount in the cloud that are none here.
_NOT_HERE = {
    "nfs": "no file systems of the network: `mw volume create NAME`, then {volume: NAME, mount_path: …}",
    "git": "clone it into a folder, and mount that at /ml/usercode",
    "dataset": "name its folder of the object store: oss.path",
    "image": "what is in an image is not mounted: use oss.path, or volume",
}
_KINDS = ("oss", "volume", "empty_dir", *_NOT_HERE)
_STORAGE_NOTED: Notes = {"properties": None}
_OSS_NOTED: Notes = {"endpoint": None, "resource_group": None, "options": ""}


def environment_of(image: str) -> str | dict[str, str]:
    """An image's short name may stand for an environment; one with a registry is an image."""
    return {"image": image} if "/" in image else image


def place(image: str) -> dict[str, Any]:
    """Where a container's command runs: in an environment when its name stands for one, else in the image."""
    if "/" not in image and ":" not in image:
        return {"processor": "command", "environment": image}
    from modelworks.settings import Settings  # noqa: PLC0415 - reads the catalogue, which few documents need

    if Settings().environment_alias(image) is not None:
        return {"processor": "command", "environment": environment_of(image)}
    return {"processor": "image", "image": image}


def containers(value: Any, out: Translation) -> None:
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], Mapping):
        out.wrong("containers", "write a list of one container")
        return
    out.spec["processor"] = "command"
    requirements: list[str] = []
    for key, item in value[0].items():
        at = f"containers.0.{key}"
        match key:
            case "image":
                out.spec |= place(str(item))
            case "command" | "script":
                out.spec["command"] = "\n".join(map(str, item)) if key == "script" and isinstance(item, list) else item
            case "args":
                out.spec["args"] = item
            case "port":
                out.spec["port"] = item
            case "env":
                out.spec["env"] = variables(item, at, out)
            case "prepare":
                requirements = _prepare(out.mapping(item, at), at, out)
            case "startup_check":
                _readiness(out, startup=startup(out.mapping(item, at)))
            case "name":
                pass
            case _ if key in _PROBES:
                _readiness(out, **probe(out.mapping(item, at), at, out))
            case _:
                out.unknown(at)
    _requirements(requirements, out)
    _arguments(out)


def storage(value: Any, out: Translation) -> None:
    for index, item in enumerate(out.list(value, "storage", "{mount_path: …, oss: {path: …}}")):
        at = f"storage.{index}"
        if not isinstance(item, Mapping):
            out.wrong(at, "write {mount_path: …, oss: {path: …}}")
            continue
        for key in item:
            if key not in ("mount_path", *_KINDS):
                noted_field(at, key, _STORAGE_NOTED, out)
        kinds = [kind for kind in _KINDS if kind in item]
        if len(kinds) != 1:
            out.wrong(at, f"one of oss.path, volume and empty_dir is mounted, not {' and '.join(kinds) or 'nothing'}")
            continue
        path = str(item.get("mount_path", ""))
        if not path and kinds[0] in ("oss", "volume"):
            out.wrong(f"{at}.mount_path", "write a path, such as /mnt/data")
            continue
        match kinds[0]:
            case "oss":
                _folder(out.mapping(item["oss"], f"{at}.oss"), path, at, out)
            case "volume":
                out.spec.setdefault("volumes", []).append({"name": str(item["volume"]), "mount_path": path})
            case "empty_dir":
                out.note(
                    f"{at}.empty_dir", f"{path or 'it'} is not made; /tmp and /dev/shm are private to each replica"
                )
            case kind:
                out.wrong(f"{at}.{kind}", _NOT_HERE[kind])


def _folder(oss: Mapping[str, Any], path: str, at: str, out: Translation) -> None:
    """``{path, readOnly, …}``: a folder of the object store."""
    for key, value in oss.items():
        if key in ("readOnly", "read_only"):
            if value in (False, "false"):
                out.note(f"{at}.oss.{key}", "it is read-only; a volume can be written")
        elif key != "path":
            noted_field(f"{at}.oss", key, _OSS_NOTED, out)
    uri = oss.get("path")
    if not uri or not isinstance(uri, str):
        out.wrong(f"{at}.oss.path", "write oss://bucket/folder/")
        return
    path = path.rstrip("/")
    if path in MODEL_MOUNTS:
        out.once("model", uri, f"{at}.oss.path")
        if path in _MODEL_PLACES:
            return
    elif path == CODE_MOUNT:
        out.once("code", uri, f"{at}.oss.path")
        return
    if uri.startswith(_STORES):
        mounts = out.spec.setdefault("mounts", {})
        folder = f"{uri.rstrip('/')}/"
        if mounts.setdefault(path, folder) != folder:
            out.wrong(f"{at}.mount_path", f"two things are mounted at {path}")
    elif path not in MODEL_MOUNTS:
        out.wrong(f"{at}.oss.path", f"a folder of this machine can be mounted at {CODE_MOUNT} only, not {uri}")


def _prepare(prepare: Mapping[str, Any], at: str, out: Translation) -> list[str]:
    requirements: list[str] = []
    for name, choice in prepare.items():
        if name == "pythonRequirements" and isinstance(choice, list):
            requirements = [str(line) for line in choice]
        elif name == "pythonRequirementsPath":
            out.note(f"{at}.{name}", "give the packages as requirements")
        else:
            out.unknown(f"{at}.{name}")
    return requirements


def _readiness(out: Translation, **found: Any) -> None:
    out.spec.setdefault("readiness", {}).update({key: value for key, value in found.items() if value is not None})


def _requirements(requirements: list[str], out: Translation) -> None:
    """Packages make an environment of their own: there is no image into which they could be put."""
    if not requirements:
        return
    image = out.spec.pop("environment", None) or out.spec.pop("image", None)
    out.spec |= {"processor": "command", "environment": {"requirements": requirements}}
    if image:
        out.note("containers.0.image", "the packages of prepare.pythonRequirements make the environment")


def _arguments(out: Translation) -> None:
    """Kubernetes' command and args: outside of an image they are one command."""
    args, command = out.spec.get("args"), out.spec.get("command")
    if args and out.spec["processor"] == "command":
        del out.spec["args"]
        words = [command] if isinstance(command, str) else list(command or ())
        out.spec["command"] = [*words, *args]
