"""From a RunSpec to ``launch.json`` and ``entry.json``: what the shim starts, and what it becomes in the sandbox."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelworks.home import Home
from modelworks.kernel.run import Listen, RunSpec, Transport
from modelworks.runtime import exchange, limits, sandbox
from modelworks.runtime.aliases import laid_out
from modelworks.runtime.mounts import Volumes, check_hidden, check_sources, check_targets
from modelworks.runtime.rundir import RunDirectory, remove_tree, write_file
from modelworks.runtime.sandbox import PACKAGE_MOUNT, RUN_MOUNT, SOCKET_NAME, Isolation, Mount

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The workload reaches the world the way the node does.
_INHERITED = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "TZ")
CREDENTIALS = "credentials"
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")


@dataclass(frozen=True)
class Gpu:
    """One GPU of the node; ``memory`` in bytes."""

    index: int
    uuid: str
    model: str
    memory: int


@dataclass(frozen=True)
class Prepared:
    """What was made ready for a run: the interpreter, directories of its inputs by channel, CPUs, GPUs, variables."""

    python: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    cpus: tuple[int, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def socket_directory(home: Home, key: str) -> Path:
    """Where a replica's socket lies on the node; the name is short because socket paths are."""
    return home.replica_sockets / hashlib.sha256(key.encode()).hexdigest()[:16]


def socket_path(home: Home, key: str) -> Path:
    return socket_directory(home, key) / SOCKET_NAME


def channel_variable(channel: str) -> str:
    """``train-data`` → ``MW_INPUT_TRAIN_DATA``."""
    return f"MW_INPUT_{re.sub(r'[^A-Za-z0-9]', '_', channel).upper()}"


def make_directories(spec: RunSpec, directory: RunDirectory, home: Home, prepared: Prepared) -> None:
    """The directories and files of the run, owned by its user. May be repeated until the run starts."""
    uid = sandbox.run_uid(spec.workspace)
    writable = [
        directory.work,
        directory.tmp,
        directory.exchange,
        *(directory.output(output.name) for output in spec.outputs),
    ]
    if directory.work.exists():
        remove_tree(directory.work)  # a copy that a crash cut short
    for path in (*writable, directory.files):
        path.mkdir(parents=True, exist_ok=True)
    for code in spec.inputs:
        if spec.workdir in code.paths:
            shutil.copytree(prepared.inputs[code.channel], directory.work, dirs_exist_ok=True, symlinks=True)
    for number, file in enumerate(spec.files):
        write_file(directory.files / str(number), file.content.encode(), 0o644)
    write_file(directory.files / "passwd", _passwd(uid).encode(), 0o644)
    write_file(directory.files / "group", _group(uid).encode(), 0o644)
    if spec.listen:
        sockets = socket_directory(home, spec.key)
        sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable.append(sockets)
    for path in writable:
        # Who writes in a container is the image's affair; the run's directory lets nobody else through.
        path.chmod(0o777 if spec.image else 0o700)
        if uid is not None:
            own_tree(path, uid)
    for volume in spec.volumes:
        # The platform made this directory for its workloads; what a user brought keeps its owner.
        if uid is not None and Path(volume.source).is_relative_to(home.volumes) and os.stat(volume.source).st_uid == 0:
            os.chown(volume.source, uid, uid)


def own_tree(path: Path, uid: int) -> None:
    """Give a tree to ``uid`` without following links out of it; what it copied becomes writable."""
    os.chown(path, uid, uid)
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            entry = os.path.join(folder, name)
            os.chown(entry, uid, uid, follow_symlinks=False)
            mode = os.lstat(entry).st_mode
            if not stat.S_ISLNK(mode):
                os.chmod(entry, stat.S_IMODE(mode) | 0o200)


def write_launch(
    spec: RunSpec, directory: RunDirectory, home: Home, isolation: Isolation, prepared: Prepared, cgroups: list[Path]
) -> None:
    """Write ``entry.json``, then ``launch.json``: with the latter the run may start.

    Raises Invalid for volumes that cannot be where they are wished.
    """
    port = _port(spec.listen, isolation)
    volumes = [(v.name, Mount(Path(v.source), v.path, not v.read_only)) for v in spec.volumes]
    check_sources(volumes, home)
    mounts = [*(mount for _, mount in volumes), *own_mounts(spec, directory, prepared)]
    paths = {} if isolation.enabled else {mount.target: str(mount.source) for mount in mounts}
    env = variables(spec, directory, home, isolation, prepared, paths, port)
    uid = sandbox.run_uid(spec.workspace) if isolation.enabled else None
    directory.write(
        "entry.json",
        {
            "command": [sandbox.rewrite(part, paths) for part in spec.command],
            "env": env,
            "cwd": sandbox.rewrite(spec.workdir, paths),
            "uid": uid,
            "gid": uid,
            "portal": {"socket": env["MW_SOCKET"], "port": port} if port else None,
            "container": False,
        },
    )
    directory.write(
        "launch.json",
        {
            "argv": _argv(spec, directory, home, isolation, prepared, volumes, uid),
            "env": {"PATH": SYSTEM_PATH, "MW_RUN": spec.key, "LANG": "C.UTF-8"},
            "cwd": "/" if isolation.enabled else str(directory.work),
            "log": str(directory.log),
            "monitor": 2 if isolation.enabled else 0,
            "cgroups": [str(path) for path in cgroups],
            "affinity": list(prepared.cpus),
            "nice": limits.niceness(spec.resources.cpu),
            "rlimits": {"RLIMIT_CORE": 0},
            "gpus": [gpu.uuid for gpu in prepared.gpus],
        },
    )


def _argv(
    spec: RunSpec,
    directory: RunDirectory,
    home: Home,
    isolation: Isolation,
    prepared: Prepared,
    volumes: Volumes,
    uid: int | None,
) -> list[str]:
    python = sandbox.base_python()
    if not isolation.enabled or isolation.bwrap is None:
        return sandbox.entry_argv(python, str(sandbox.PACKAGE), str(directory.path))
    own = [
        *laid_out(own_mounts(spec, directory, prepared), directory.files),
        *sandbox.interpreter_mounts(prepared.python),
        *sandbox.interpreter_mounts(python),
        Mount(sandbox.PACKAGE, f"{PACKAGE_MOUNT}/{sandbox.PACKAGE.name}"),
        Mount(directory.path / "entry.json", f"{RUN_MOUNT}/entry.json"),
        Mount(directory.tmp, "/tmp", writable=True),
        Mount(directory.exchange, exchange.MOUNT, writable=True),
        Mount(directory.files / "passwd", "/etc/passwd"),
        Mount(directory.files / "group", "/etc/group"),
    ]
    if spec.access.expose:
        own.append(Mount(directory.path / CREDENTIALS, f"{RUN_MOUNT}/{CREDENTIALS}"))
    if spec.listen:
        own.append(Mount(socket_directory(home, spec.key), f"{RUN_MOUNT}/socket", writable=True))
    check_targets(own, volumes)
    check_hidden(own, home)
    return sandbox.bwrap_argv(
        isolation.bwrap,
        [*(mount for _, mount in volumes), *{mount.target: mount for mount in own}.values()],
        sandbox.entry_argv(python, f"{PACKAGE_MOUNT}/{sandbox.PACKAGE.name}", RUN_MOUNT),
        uid=uid,
        hostname=f"{spec.name}-{spec.key.split('/')[2]}",
        isolate_network=_isolated(spec.listen, isolation),
        devices=[*(f"/dev/nvidia{gpu.index}" for gpu in prepared.gpus), *(_GPU_DEVICES if prepared.gpus else ())],
    )


def own_mounts(spec: RunSpec, directory: RunDirectory, prepared: Prepared) -> list[Mount]:
    """What the spec asks for at its paths besides volumes.

    Where the run works there is a copy of the code, since people write beside it.
    """
    found = [
        Mount(prepared.inputs[i.channel], path)
        for i in spec.inputs
        for path in i.paths
        if path != spec.workdir and not _is_there(path, i.paths, prepared.inputs[i.channel])
    ]
    found += [Mount(directory.output(o.name), path, writable=True) for o in spec.outputs for path in o.paths]
    found += [Mount(directory.files / str(number), file.path) for number, file in enumerate(spec.files)]
    taken = [*(mount.target for mount in found), *(volume.path for volume in spec.volumes)]
    if not any(spec.workdir == target or spec.workdir.startswith(f"{target}/") for target in taken):
        found.append(Mount(directory.work, spec.workdir, writable=True))
    return found


def _is_there(path: str, paths: Sequence[str], source: Path) -> bool:
    """Whether what is at another path has something of that name itself, which the mount would hide."""
    parent, _, name = path.rpartition("/")
    return parent in paths and os.path.lexists(source / name)


def variables(
    spec: RunSpec,
    directory: RunDirectory,
    home: Home,
    isolation: Isolation,
    prepared: Prepared,
    paths: Mapping[str, str],
    port: int | None,
) -> dict[str, str]:
    """The workload's whole environment."""
    tmp = "/tmp" if isolation.enabled else str(directory.tmp)
    python_path = PACKAGE_MOUNT if isolation.enabled else str(_package_link(home))
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    env |= {
        "PATH": f"{prepared.python.parent}:{SYSTEM_PATH}",
        "HOME": tmp,
        "TMPDIR": tmp,
        "USER": "mw",
        "LOGNAME": "mw",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "MW_RUN": spec.key,
        "MW_MEMORY": str(spec.resources.memory),
        **limits.thread_variables(spec.resources.cpu),
        **prepared.variables,
        **exchange.variables(exchange.MOUNT if isolation.enabled else str(directory.exchange)),
    }
    if (prepared.python.parent.parent / "pyvenv.cfg").exists():
        env["VIRTUAL_ENV"] = str(prepared.python.parent.parent)
    if prepared.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in prepared.gpus)
    if spec.outputs:
        env["MW_OUTPUT_DIR"] = _place(spec.outputs[0].paths, paths)
    for output in spec.outputs:
        env[output.env or f"MW_OUTPUT_{channel_variable(output.name)[9:]}"] = _place(output.paths, paths)
    for item in spec.inputs:
        place = _place(item.paths, paths) if item.paths else ""
        env |= {channel_variable(item.channel): place} | ({item.env: place} if item.env else {})
    for volume in spec.volumes:
        if volume.env:
            env[volume.env] = _place((volume.path,), paths)
    if spec.listen:
        env["MW_SOCKET"] = (
            f"{RUN_MOUNT}/socket/{SOCKET_NAME}" if isolation.enabled else str(socket_path(home, spec.key))
        )
    if spec.access.expose:
        folder = f"{RUN_MOUNT}/{CREDENTIALS}" if isolation.enabled else str(directory.path / CREDENTIALS)
        env["MW_CREDENTIALS_FILE"] = f"{folder}/credentials.json"
    if port:
        env["PORT"] = str(port)
    env |= {name: sandbox.rewrite(value, paths) for name, value in spec.env.items()}
    if spec.listen:
        # `import allspark` in a program that serves itself with it.
        python_path += f":{python_path}/{sandbox.PACKAGE.name}/server/shims"
    env["PYTHONPATH"] = f"{spec.env['PYTHONPATH']}:{python_path}" if spec.env.get("PYTHONPATH") else python_path
    return env


def _place(targets: tuple[str, ...], paths: Mapping[str, str]) -> str:
    return paths.get(targets[0], targets[0]) if targets else ""


def _isolated(listen: Listen | None, isolation: Isolation) -> bool:
    """A network of its own, for a replica that would otherwise listen where everybody can call it."""
    return (
        isolation.enabled and listen is not None and listen.transport == Transport.PORT and listen.network == "isolated"
    )


def _port(listen: Listen | None, isolation: Isolation) -> int | None:
    """The wished port in a network of its own, else a free one of the node's."""
    if listen is None or listen.transport != Transport.PORT:
        return None
    if _isolated(listen, isolation):
        return listen.port
    return free_port()


def free_port() -> int:
    """One of the node's loopback ports that nobody listens on now."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def _package_link(home: Home) -> Path:
    """A directory that holds the platform's package alone: its neighbours must not leak into other environments."""
    folder = home.agent / "package"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / sandbox.PACKAGE.name
    if not link.is_symlink() or os.readlink(link) != str(sandbox.PACKAGE):
        temporary = folder / f".{sandbox.PACKAGE.name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(sandbox.PACKAGE)
        temporary.rename(link)
    return folder


def _passwd(uid: int | None) -> str:
    number = os.geteuid() if uid is None else uid
    return f"root:x:0:0:root:/tmp:/usr/sbin/nologin\nmw:x:{number}:{number}:mw:/tmp:/bin/sh\n"


def _group(uid: int | None) -> str:
    return f"root:x:0:\nmw:x:{os.getegid() if uid is None else uid}:\n"
