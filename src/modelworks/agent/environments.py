"""Virtual environments by digest, each built once: by uv when it is there, else by venv and pip.

They are built where they stay, since they cannot be moved; ``.complete`` says that one is whole. A builder holds
``<digest>.lock``, which its child inherits: when an agent is killed, the next waits for the orphaned installer.

Wheels are only unpacked, so uv may do that as it is, with its cache. What has to be built runs code of its own: that
happens in a sandbox that sees nothing but this environment, without a cache that others would install from.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from modelworks.agent.bytecode import Compiler
from modelworks.agent.confine import confined
from modelworks.kernel.errors import EnvironmentFailed
from modelworks.kernel.run import EnvironmentRef
from modelworks.runtime import container
from modelworks.runtime.rundir import remove_tree, write_file
from modelworks.runtime.sandbox import Isolation, base_python

_MARK = re.compile(r"^\s*(error:|ERROR:|×)")
_LONGEST = 4000
_UNPACKED = ".unpacked"  # nothing but wheels were unpacked; what pip or a build installed is compiled by then


class Environments:
    """All environments of a node. ``ensure`` blocks while it builds; several threads may ask for the same one."""

    def __init__(self, root: Path, isolation: Isolation) -> None:
        self.root = root
        self.isolation = isolation
        self._compiler = Compiler()

    def python(self, ref: EnvironmentRef | None) -> Path | None:
        """The interpreter when nothing has to be built, else None."""
        if ref is None or not (ref.requirements or ref.python or ref.image):
            return Path(sys.executable)
        folder = self._folder(ref)
        if not (folder / ".complete").exists():
            return None
        if (folder / _UNPACKED).exists():
            self._compiler.begin(folder)
        return folder / "bin" / "python"

    def ensure(self, ref: EnvironmentRef | None, progress: Callable[[str], None]) -> Path:
        """Its interpreter, built if need be. Raises EnvironmentFailed with the resolver's own words."""
        ready = self.python(ref)
        if ready is not None or ref is None:
            return ready or Path(sys.executable)
        if ref.image:
            container.pull(ref.image, progress)
            return Path(sys.executable)  # for what prepares the run; in the image it is not
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
        return self.python(ref) or folder / "bin" / "python"

    def _folder(self, ref: EnvironmentRef) -> Path:
        return self.root / re.sub(r"[^A-Za-z0-9._-]", "_", ref.digest)[:64]

    def _build(self, ref: EnvironmentRef, folder: Path, lock: int) -> None:
        uv = find_uv()
        self._make(ref, folder, uv, lock)
        if ref.requirements and not self._unpacked(ref, folder, uv, lock):
            # Again from the beginning: what uv has installed so far shares its files with its cache.
            self._make(ref, folder, uv, lock)
            self._install(ref, folder, uv, lock)
        elif ref.requirements:
            write_file(folder / _UNPACKED, b"", 0o644)
        write_file(folder / ".complete", b"", 0o644)

    def _make(self, ref: EnvironmentRef, folder: Path, uv: str | None, lock: int) -> None:
        """The environment without packages."""
        if folder.exists():
            remove_tree(folder)
        python = _find_python(ref.python)
        if python:
            _run(
                [uv, "venv", "--quiet", "--python", python, str(folder)] if uv else [python, "-m", "venv", str(folder)],
                lock,
            )
        else:
            _fetch_python(uv, ref, folder, lock)
        (folder / "requirements.txt").write_text("\n".join(ref.requirements) + "\n")

    def _unpacked(self, ref: EnvironmentRef, folder: Path, uv: str | None, lock: int) -> bool:
        """Whether wheels were all it takes. pip is not asked: what a URL names it builds, whatever it was told."""
        if uv is None or any("--no-binary" in line for line in ref.requirements):
            return False
        with contextlib.suppress(EnvironmentFailed):  # the second try says why in words that fit
            _run([*_installer(folder, uv), "--no-build"], lock)
            return True
        return False

    def _install(self, ref: EnvironmentRef, folder: Path, uv: str | None, lock: int) -> None:
        if not self.isolation.enabled:
            _run(_installer(folder, uv), lock)
            return
        scratch = folder / ".build"
        try:
            command = [*_installer(folder, uv), "--no-cache-dir", *(["--compile-bytecode"] if uv else [])]
            _run(confined(self.isolation, folder, scratch, command), lock)
        finally:
            remove_tree(scratch)


def _installer(folder: Path, uv: str | None) -> list[str]:
    """The command that installs ``requirements.txt`` of ``folder`` into it."""
    python, constraints = str(folder / "bin" / "python"), os.environ.get("MW_CONSTRAINTS")
    install = (
        [uv, "pip", "install", "--no-progress", "--python", python]
        if uv
        else [python, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    )
    requirements = ["-r", str(folder / "requirements.txt")]
    return [*install, *requirements, *(["--constraint", constraints] if constraints else [])]


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
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = (shutil.which(f"python{version}", path=place) for place in places if place)
    return next((python for python in found if python and _is_python(python, version)), None)


def _fetch_python(uv: str | None, ref: EnvironmentRef, folder: Path, lock: int) -> None:
    """An environment of a Python that is not on the PATH: uv knows other places, and brings it if it may."""
    missing, why = f"Python {ref.python} is not installed on this node", ""
    if uv:
        try:
            _run([uv, "venv", "--quiet", "--python", str(ref.python), str(folder)], lock)
        except EnvironmentFailed as error:
            why = f", and uv could not bring it:\n{error.detail}"
        else:
            return
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise EnvironmentFailed(
        missing + why, remedy=f"install python{ref.python} there, or leave `python` out to use the platform's {own}"
    )


def _is_python(path: str, version: str) -> bool:
    """Whether it runs: a version manager puts commands on the PATH that only say what to install."""
    program = "import sys; print('{}.{}'.format(*sys.version_info))"
    try:
        answer = subprocess.run(
            [path, "-I", "-c", program],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


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


def summary(detail: str) -> str:
    """One line for a status: the resolver's first words, and its first cause where it names one."""
    lines = [line.strip().removeprefix("error: ").removeprefix("ERROR: ") for line in detail.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return "the installer failed without a word"
    cause = next((line for line in lines[1:] if line.startswith("cause: ")), None)
    first = lines[0].rstrip(".:")
    return f"{first}: {cause.removeprefix('cause: ')}".rstrip(".") if cause else first


def _last_words(text: str) -> str:
    """From the first line that the resolver marks as an error to the end."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    start = next((number for number, line in enumerate(lines) if _MARK.match(line)), max(0, len(lines) - 15))
    return "\n".join(lines[start:])[-_LONGEST:]
