"""Runs in images, by podman or docker: the command line, pulling, and what a killed one leaves behind.

The engine's client runs below the shim like any workload: its log, its exit code and its stop are the shim's. Under
root the container shares a network namespace that we made, in which the portal listens; podman's processes stay in the
shim's tree and below the run's memory group. A docker daemon runs its containers elsewhere: there the engine limits the
memory, and the container listens on a loopback port.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelworks.kernel.errors import EnvironmentFailed
from modelworks.kernel.run import RunSpec
from modelworks.runtime.sandbox import Mount

# An image brings its own.
_OF_THE_IMAGE = frozenset(("PATH", "HOME", "USER", "LOGNAME", "LANG", "VIRTUAL_ENV", "PYTHONPATH", "TMPDIR"))
_LOCAL_REGISTRIES = ("localhost:", "127.0.0.1:", "localhost/")
_REMEDY = "install podman on the node, or map the image to an environment with a substitution in config.yaml"
_STOP_TIMEOUT = 60.0


@dataclass(frozen=True)
class Engine:
    """``program`` is podman or docker; ``options`` are what it is told before every command."""

    program: str
    options: tuple[str, ...] = ()

    @property
    def podman(self) -> bool:
        return os.path.basename(self.program) == "podman"

    def call(
        self, *arguments: str, timeout: float | None = None, attached: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine; its output is text. ``attached``: it ends with us, however we end."""
        setpriv = shutil.which("setpriv") if attached else None
        return subprocess.run(
            [*([setpriv, "--pdeathsig", "TERM"] if setpriv else []), self.program, *self.options, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )


def named() -> str | None:
    """The name of the engine that would be used, without asking whether it answers."""
    return next((os.path.basename(program) for program in _programs()), None)


def _programs() -> list[str]:
    """Those installed, the preferred first. ``MW_CONTAINER_ENGINE`` names another one, or is ``off``."""
    wanted = os.environ.get("MW_CONTAINER_ENGINE", "")
    if wanted.lower() in ("off", "0", "false", "no"):
        return []
    found = (shutil.which(name) for name in ([wanted] if wanted else ["podman", "docker"]))
    return [program for program in found if program is not None]


@functools.cache
def find_engine() -> Engine | None:
    """podman, else docker, if it answers; see ``MW_CONTAINER_ENGINE``."""
    for program in _programs():
        podman = os.path.basename(program) == "podman"
        # Where systemd does not run, its groups cannot be asked for; and what is asked for by path works with it too.
        engine = Engine(program, ("--cgroup-manager", "cgroupfs") if podman and os.geteuid() == 0 else ())
        try:
            answer = engine.call("version", timeout=20.0)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if answer.returncode == 0:
            return engine
    return None


def pull(image: str, progress: Callable[[str], None]) -> None:
    """The image is on this node, pulled if need be. Raises EnvironmentFailed with the engine's own words."""
    engine = find_engine()
    if engine is None:
        raise EnvironmentFailed(f"the environment is the image {image}: images need podman or docker", remedy=_REMEDY)
    if present(engine, image):
        return
    progress(f"pulling image {image}")
    insecure = ["--tls-verify=false"] if engine.podman and image.startswith(_LOCAL_REGISTRIES) else []
    answer = engine.call("pull", "--quiet", *insecure, image, attached=True)
    if answer.returncode:
        lines = [line for line in answer.stderr.splitlines() if line.strip()] or [f"exit code {answer.returncode}"]
        raise EnvironmentFailed(
            f"the image {image} cannot be pulled: {lines[-1].removeprefix('Error: ')}",
            remedy=f"check the name with `{os.path.basename(engine.program)} pull {image}` on the node, "
            f"and log in there to a private registry",
        )


def present(engine: Engine, image: str) -> bool:
    """Whether the node has the image."""
    return engine.call("image", "inspect", image).returncode == 0


def container_name(key: str) -> str:
    return f"mw-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def remove(key: str) -> None:
    """What the engine still knows of a run's container, which was perhaps killed together with its client."""
    engine = find_engine()
    if engine is not None:
        engine.call("rm", "--force", container_name(key), timeout=_STOP_TIMEOUT)


def run_argv(
    engine: Engine,
    spec: RunSpec,
    env: Mapping[str, str],
    mounts: Sequence[Mount],
    *,
    cgroup: Path | None,
    port: tuple[int, int] | None,
    workdir: str | None,
    devices: Sequence[str] = (),
) -> list[str]:
    """The client's command line. Variables travel in its own environment, not where everybody sees them.

    ``cgroup`` is the run's memory group (podman). ``port``, in the container and on this machine's loopback, is
    published when the container has a network of its own (docker, and podman without root). ``workdir`` None: the
    image's own.
    """
    image = spec.environment.image if spec.environment else None
    if image is None:
        raise ValueError(f"run {spec.key} has no image")
    argv = [engine.program, *engine.options]
    runc = shutil.which("runc") if engine.podman and shutil.which("crun") is None else None
    argv += ["--runtime", runc] if runc else []
    argv += ["run", "--rm", "--name", container_name(spec.key), "--label", f"modelworks.run={spec.key}"]
    argv += ["--pull", "never", "--security-opt", "no-new-privileges", "--log-driver", "none"]
    argv += ["--replace"] if engine.podman else []
    argv += [f"--ulimit={name}={_limit(name)}:{_limit(name)}" for name in ("nofile", "nproc")]
    if cgroup is not None and engine.podman:
        argv += ["--cgroup-parent", f"/{cgroup}"]
    else:
        argv += ["--memory", str(spec.resources.memory)]
    if not engine.podman or cgroup is None:
        argv += ["--cpus", f"{spec.resources.cpu / 1000:g}"]
    argv += ["--network", "host"] if port is None else ["--publish", f"127.0.0.1:{port[1]}:{port[0]}"]
    for mount in mounts:
        mode = "" if mount.writable else ",readonly"
        argv += ["--mount", f"type=bind,source={mount.source},target={mount.target}{mode}"]
    for device in devices:
        argv += ["--device", device]
    for name in sorted(env):
        if name not in _OF_THE_IMAGE:
            argv += ["--env", name]
        elif name in spec.env:
            argv += ["--env", f"{name}={env[name]}"]  # the client's own variable is another
    argv += ["--workdir", workdir] if workdir else []
    if spec.command:
        argv += ["--entrypoint", spec.command[0] if not engine.podman else json.dumps([spec.command[0]])]
    return [*argv, image, *spec.command[1:], *spec.args]


def _limit(name: str) -> int:
    """What we have ourselves, and never more than any machine gives: who asks for more is not started."""
    kind, most = {"nofile": (resource.RLIMIT_NOFILE, 1 << 20), "nproc": (resource.RLIMIT_NPROC, 1 << 14)}[name]
    hard = resource.getrlimit(kind)[1]
    return most if hard == resource.RLIM_INFINITY else min(hard, most)
