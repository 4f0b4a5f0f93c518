"""Virtual environments by digest, each built once: by uv when it is there, else by venv and pip.

They are built where they stay, since they cannot be moved; ``.complete`` says that one is whole. A builder holds
``<digest>.lock``, which its child inherits: when an agent is killed, the next waits for the orphaned installer.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from modelworks.kernel.errors import EnvironmentFailed
from modelworks.kernel.run import EnvironmentRef
from modelworks.runtime.rundir import write_file
from modelworks.runtime.sandbox import base_python

_MARK = re.compile(r"^\s*(error:|ERROR:|×)")
_LONGEST = 4000


class Environments:
    """All environments of a node. ``ensure`` blocks while it builds; several threads may ask for the same one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def python(self, ref: EnvironmentRef | None) -> Path | None:
        """The interpreter when nothing has to be built, else None."""
        if ref is None or not (ref.requirements or ref.python or ref.image):
            return Path(sys.executable)
        folder = self._folder(ref)
        return folder / "bin" / "python" if (folder / ".complete").exists() else None

    def ensure(self, ref: EnvironmentRef | None, progress: Callable[[str], None]) -> Path:
        """Its interpreter, built if need be. Raises EnvironmentFailed with the resolver's own words."""
        ready = self.python(ref)
        if ready is not None or ref is None:
            return ready or Path(sys.executable)
        if ref.image:
            raise EnvironmentFailed(
                f"the environment is the image {ref.image}: images need podman or docker",
                remedy="map the image to an environment with a substitution in config.yaml",
            )
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self._folder(ref)
        lock = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            progress(f"waiting for environment {ref.name or ref.digest[:12]}")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / ".complete").exists():
                progress(f"building environment {ref.name or ref.digest[:12]}")
                self._build(ref, folder, lock)
        finally:
            os.close(lock)
        return folder / "bin" / "python"

    def _folder(self, ref: EnvironmentRef) -> Path:
        return self.root / re.sub(r"[^A-Za-z0-9._-]", "_", ref.digest)[:64]

    def _build(self, ref: EnvironmentRef, folder: Path, lock: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        uv, python = find_uv(), _find_python(ref.python)
        if uv:
            _run([uv, "venv", "--quiet", "--python", python or str(ref.python), str(folder)], lock)
        elif python:
            _run([python, "-m", "venv", str(folder)], lock)
        else:
            raise EnvironmentFailed(
                f"Python {ref.python} is not installed on this node",
                remedy="install it, or install uv, which brings it",
            )
        if ref.requirements:
            requirements = folder / "requirements.txt"
            requirements.write_text("\n".join(ref.requirements) + "\n")
            interpreter = str(folder / "bin" / "python")
            install = (
                [uv, "pip", "install", "--no-progress", "--python", interpreter]
                if uv
                else [interpreter, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
            )
            constraints = os.environ.get("MW_CONSTRAINTS")
            extra = ["--constraint", constraints] if constraints else []
            _run([*install, "-r", str(requirements), *extra], lock)
        write_file(folder / ".complete", b"", 0o644)


def find_uv() -> str | None:
    """uv beside this interpreter, or on the PATH. ``MW_UV=off`` uses pip."""
    if os.environ.get("MW_UV", "").lower() in ("off", "0", "false", "no"):
        return None
    beside = Path(sys.executable).with_name("uv")
    if importlib.util.find_spec("uv") and beside.exists():
        return str(beside)
    return shutil.which("uv")


def _find_python(version: str | None) -> str | None:
    """The platform's own interpreter where its version fits, else one on the PATH; None: not here."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version is None or version in (own, f"{own}.{sys.version_info.micro}", str(sys.version_info.major)):
        return str(base_python())
    return shutil.which(f"python{version}")


def _run(command: list[str], lock: int) -> None:
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        pass_fds=(lock,),
        stdin=subprocess.DEVNULL,
    )
    if result.returncode != 0:
        raise EnvironmentFailed(_last_words(result.stderr or result.stdout) or f"exit code {result.returncode}")


def _last_words(text: str) -> str:
    """From the first line that the resolver marks as an error to the end."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    start = next((number for number, line in enumerate(lines) if _MARK.match(line)), max(0, len(lines) - 15))
    return "\n".join(lines[start:])[-_LONGEST:]
