"""From a RunSpec with an image to ``launch.json`` and ``entry.json``: the shim starts the container engine's client."""

from __future__ import annotations

import os
from pathlib import Path

from modelworks.home import Home
from modelworks.kernel.errors import Invalid
from modelworks.kernel.run import RunSpec, Transport
from modelworks.runtime import container, exchange, launch, limits, sandbox
from modelworks.runtime.aliases import laid_out
from modelworks.runtime.container import Engine
from modelworks.runtime.launch import Prepared
from modelworks.runtime.mounts import check_hidden, check_sources, check_targets
from modelworks.runtime.rundir import RunDirectory
from modelworks.runtime.sandbox import PACKAGE_MOUNT, RUN_MOUNT, Isolation, Mount

_AS_IF = Isolation(True)
# What the client itself reads: where its settings, its images and its session are.
_OF_THE_CLIENT = ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DOCKER_HOST", "CONTAINERS_CONF")


def write_launch(spec: RunSpec, directory: RunDirectory, home: Home, prepared: Prepared, cgroups: list[Path]) -> None:
    """Write ``entry.json``, then ``launch.json``. Raises Invalid for volumes that cannot be where they are wished."""
    engine = container.find_engine()
    if engine is None:
        raise Invalid("images need podman or docker, and neither answers any more", remedy="install one on the node")
    inside, outside = _ports(spec, engine)
    volumes = [(v.name, Mount(Path(v.source), v.path, not v.read_only)) for v in spec.volumes]
    check_sources(volumes, home)
    own = [
        *laid_out(launch.own_mounts(spec, directory, prepared), directory.files),
        *_platform(spec, directory),
    ]
    check_targets(own, volumes)
    check_hidden(own, home)
    env = launch.variables(spec, directory, home, _AS_IF, prepared, {}, inside)
    socket = str(launch.socket_path(home, spec.key))
    env.pop("MW_SOCKET", None)
    parent = _parent(cgroups)
    argv = container.run_argv(
        engine,
        spec,
        env,
        [*(mount for _, mount in volumes), *{mount.target: mount for mount in own}.values()],
        cgroup=parent,
        port=(inside, outside) if inside and outside and not _shares_network(spec, engine) else None,
        workdir=spec.workdir if _has_code(spec) else None,
        devices=[f"nvidia.com/gpu={gpu.uuid}" for gpu in prepared.gpus],
    )
    client = {name: os.environ[name] for name in _OF_THE_CLIENT if name in os.environ}
    directory.write(
        "entry.json",
        {
            "command": argv,
            "env": {**env, "PATH": os.environ.get("PATH", os.defpath), **client},
            "cwd": "/",
            "uid": None,
            "gid": None,
            "portal": {"socket": socket, "port": outside} if outside else None,
            "container": True,
            "own_network": _shares_network(spec, engine),
        },
    )
    directory.write(
        "launch.json",
        {
            "argv": sandbox.entry_argv(sandbox.base_python(), str(sandbox.PACKAGE), str(directory.path)),
            "env": {"PATH": os.environ.get("PATH", os.defpath), "MW_RUN": spec.key, "LANG": "C.UTF-8"},
            "cwd": "/",
            "log": str(directory.log),
            "monitor": 1,
            # In a group of the second version processes and groups cannot be side by side.
            "cgroups": [str(path) for path in cgroups] if parent else [],
            "affinity": list(prepared.cpus),
            "nice": limits.niceness(spec.resources.cpu),
            "rlimits": {"RLIMIT_CORE": 0},
            "gpus": [gpu.uuid for gpu in prepared.gpus],
        },
    )


def _shares_network(spec: RunSpec, engine: Engine) -> bool:
    """Whether the container joins a network that we make: as root, with podman, for a replica that is to be alone."""
    listens = spec.listen is not None and spec.listen.transport == Transport.PORT
    return listens and spec.listen is not None and spec.listen.network == "isolated" and engine.podman and _root()


def _ports(spec: RunSpec, engine: Engine) -> tuple[int | None, int | None]:
    """Where the server listens in the container, and where the portal finds it."""
    if spec.listen is None or spec.listen.transport != Transport.PORT:
        return None, None
    if _shares_network(spec, engine):
        return spec.listen.port, spec.listen.port
    outside = launch.free_port()
    return (outside, outside) if spec.listen.network == "host" else (spec.listen.port, outside)


def _platform(spec: RunSpec, directory: RunDirectory) -> list[Mount]:
    """The training helpers, /tmp, and the keys of a run that has some."""
    found = [
        Mount(sandbox.PACKAGE, f"{PACKAGE_MOUNT}/{sandbox.PACKAGE.name}"),
        Mount(directory.tmp, "/tmp", writable=True),
        Mount(directory.exchange, exchange.MOUNT, writable=True),
    ]
    if spec.access.expose:
        found.append(Mount(directory.path / launch.CREDENTIALS, f"{RUN_MOUNT}/{launch.CREDENTIALS}"))
    return found


def _has_code(spec: RunSpec) -> bool:
    return any(spec.workdir in item.paths for item in spec.inputs)


def _parent(cgroups: list[Path]) -> Path | None:
    """The run's group as the engine names it, below which it makes the container's; only of the first version."""
    for procs in cgroups:
        root = Path("/sys/fs/cgroup/memory")
        if procs.is_relative_to(root):
            return procs.parent.relative_to(root)
    return None


def _root() -> bool:
    return os.geteuid() == 0
