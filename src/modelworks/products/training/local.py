"""A job here and now, without the platform: the same spec, its paths as variables and in the command.

There is no sandbox, no store and no limit: what the job reads and writes are local folders, it runs in this Python, and
its replicas are processes side by side.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.resource import Manifest
from modelworks.kernel.run import Resources
from modelworks.products.training import frameworks
from modelworks.products.training.channels import places
from modelworks.products.training.gang import Gang, Place, lasting, role_of
from modelworks.products.training.policy_spec import Framework
from modelworks.products.training.ranks import (
    JobIdentity,
    channel_variable,
    hyperparameter_texts,
    hyperparameter_variables,
    path_aliases,
    process_count,
    replica_variables,
)
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.products.workload import arguments, expand, expand_variables
from modelworks.runtime.archive import unpack
from modelworks.runtime.sandbox import rewrite

_UID = "local"


@dataclass(frozen=True)
class Folders:
    """The folders of one rank, and which path of the sandbox each stands for."""

    work: Path
    output: Path
    checkpoints: Path
    paths: Mapping[str, str]


def run(manifest: dict[str, Any], directory: Path) -> int:
    """Run the job below ``directory`` to its end: 0, or the exit code of the first replica that failed.

    The output is ``spec.output`` where that is a folder, else ``<directory>/output``. Raises Invalid for a manifest
    that the platform would refuse, and for URIs: without the platform there is no store to read.
    """
    parsed = Manifest.parse(manifest)
    if parsed.kind != "TrainingJob":
        said = f"expected a TrainingJob, not a {parsed.kind}"
        raise Invalid(said, fields=(FieldError("kind", said),))
    spec = TrainingJobSpec.parse(parsed.spec, at="spec")
    directory = directory.absolute()
    gang = Gang.of(spec, f"{_UID}{os.getpid()}", 1, dict.fromkeys(range(spec.size), Place()))
    name = parsed.metadata.name
    folders = [_folders(name, spec, gang, directory, rank) for rank in range(spec.size)]
    processes = [_start(name, spec, gang, rank, one) for rank, one in enumerate(folders)]
    return _wait(processes, spec)


def _folders(name: str, spec: TrainingJobSpec, gang: Gang, directory: Path, rank: int) -> Folders:
    root = directory if spec.size == 1 else directory / f"rank{rank}"
    names = ("work", "output", "checkpoints", "tensorboard", "config")
    work, output, checkpoints, tensorboard, config = (root / name for name in names)
    if spec.output is not None:
        output = _local(spec.output, "spec.output", must_exist=False)
        output = output if rank == 0 else output.with_name(f"{output.name}.rank{rank}")
    for folder in (output, checkpoints, tensorboard, config):
        folder.mkdir(parents=True, exist_ok=True)
    if spec.code is not None:
        _copy_code(_local(spec.code, "spec.code"), work)
    work.mkdir(parents=True, exist_ok=True)
    hyperparameters = config / "hyperparameters.json"
    hyperparameters.write_text(json.dumps(hyperparameter_texts(spec.hyperparameters), indent=2) + "\n")
    paths = {
        "/ml/usercode": work,
        "/mnt/output": output,
        "/ml/output/model": output,
        "/ml/output/checkpoints": checkpoints,
        "/ml/output/tensorboard": tensorboard,
        "/ml/input/config": config,
        "/ml/input/config/hyperparameters.json": hyperparameters,
    }
    for channel, source in spec.inputs.items():
        folder = _local(source, f"spec.inputs.{channel}")
        usual, named = places(spec, channel)[:2], places(spec, channel)[2:]
        paths |= dict.fromkeys((*usual, *(n for n in named if not (folder / Path(n).name).exists())), folder)
    for path, source in spec.mounts.items():
        paths[path] = _local(source, f"spec.mounts.{path}")
    if spec.framework is Framework.MPI:
        slots = {one.ordinal: process_count(spec, _resources(spec, one.ordinal)) for one in gang.members}
        paths[frameworks.HOST_FILE] = config / "hostfile"
        paths[frameworks.HOST_FILE].write_text(frameworks.host_file(gang, name=name, slots=slots))
    for volume in spec.volumes:
        paths[volume.mount_path] = root / "volumes" / volume.name
        paths[volume.mount_path].mkdir(parents=True, exist_ok=True)
    return Folders(work, output, checkpoints, {path: str(real) for path, real in paths.items()})


def _copy_code(source: Path, work: Path) -> None:
    """The code as the platform would unpack it; what an earlier run left there goes."""
    shutil.rmtree(work, ignore_errors=True)
    if source.is_dir():
        ignore = shutil.ignore_patterns(".git", ".venv", "__pycache__", work.parent.name)
        shutil.copytree(source, work, ignore=ignore, symlinks=True)
    elif tarfile.is_tarfile(source):
        unpack(source, work, str(source))
    else:
        said = f"{source} is neither a folder nor a .tar.gz"
        raise Invalid(said, fields=(FieldError("spec.code", said),))


def _local(text: str, path: str, *, must_exist: bool = True) -> Path:
    if re.match(r"[a-z0-9]+://", text):
        said = f"{text} is in an object store; a local run reads and writes folders"
        raise Invalid(said, fields=(FieldError(path, said),), remedy="download it, and name the folder instead")
    found = Path(text).expanduser().absolute()
    if must_exist and not found.exists():
        said = f"there is no {found}"
        raise Invalid(said, fields=(FieldError(path, said),))
    return found


def _resources(spec: TrainingJobSpec, rank: int) -> Resources:
    """What the manifest says of it: instance types are the platform's to know."""
    role = role_of(spec, rank)
    wanted = (role.resources if role else None) or spec.resources
    return wanted or Resources.parse({"cpu": max(1, (os.cpu_count() or 1) // spec.size)})


def _variables(name: str, spec: TrainingJobSpec, gang: Gang, rank: int, place: Folders) -> dict[str, str]:
    role = role_of(spec, rank)
    identity = JobIdentity(_UID, name, 1)
    platform = {
        **replica_variables(identity, spec, gang, gang.member(rank), _resources(spec, rank)),
        **path_aliases(spec),
        **hyperparameter_variables(spec.hyperparameters),
        "MW_OUTPUT_DIR": "/mnt/output",
        "MW_CHECKPOINT_DIR": "/ml/output/checkpoints",
        "MW_TENSORBOARD_DIR": "/ml/output/tensorboard",
        **{channel_variable(channel): f"/mnt/{channel}" for channel in spec.inputs},
    }
    known = platform | expand_variables(spec.env | (role.env if role else {}), platform)
    return {key: rewrite(value, place.paths) for key, value in known.items()}


def _start(name: str, spec: TrainingJobSpec, gang: Gang, rank: int, place: Folders) -> subprocess.Popen[bytes]:
    variables, role = _variables(name, spec, gang, rank, place), role_of(spec, rank)
    written = (role and role.command) or spec.command
    command = tuple(rewrite(expand(part, variables), place.paths) for part in arguments(written))
    if spec.framework is Framework.MPI:
        command = frameworks.mpi_command(gang.member(rank), command)
    # `python` in the command is this one, whether its environment is activated or not.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"
    environment = os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"} | variables
    try:
        return subprocess.Popen(command, cwd=place.work, env=environment, start_new_session=True)
    except OSError as error:
        said = f"cannot start {command[0]!r}: {error.strerror}"
        raise Invalid(said, fields=(FieldError("spec.command", said),)) from None


def _wait(processes: list[subprocess.Popen[bytes]], spec: TrainingJobSpec) -> int:
    """Wait for all that end by themselves; then, or once one fails, the others are ended.

    Ctrl-C, SIGTERM and the time limit end all.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    waiting = {process.pid: process for process in processes}
    working = {process.pid for rank, process in enumerate(processes) if not lasting(spec, rank)} or set(waiting)
    try:
        if spec.time_limit is not None:
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, spec.time_limit)
        while working:
            pid, status = os.wait()
            process = waiting.pop(pid, None)
            working.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            if process is None:
                continue
            process.returncode = code
            if code != 0:
                return code if code > 0 else 128 - code
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for process in waiting.values():
            _end(process, spec.grace_period)
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM, the grace period, SIGKILL, each to the whole session."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
