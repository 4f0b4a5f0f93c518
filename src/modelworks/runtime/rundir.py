"""The run directory: the contract between the agent, the shim and whoever looks at a run after a crash. Version 1.

::

    runs/<uid>/<attempt>/<ordinal>/<incarnation>/
      spec.json      the RunSpec; the directory appears by one rename with this file in it
      launch.json    what the shim starts: {version, argv, env, cwd, log, monitor, cgroups, affinity, nice, rlimits}
      entry.json     what runs inside the sandbox: {version, command, env, cwd, uid, gid, portal}
      lock           the shim holds an flock on it as long as it lives: liveness without races or reused pids
      lease          {version, boot, until}: of a run with a lease, on the machine's boot clock; kept by the agent
      started        {version, shim, pid, at}; made by link(2), so a run starts at most once
      stop           {version, grace, reason, message, at}; the agent's wish, read by the shim at SIGTERM
      exited         {version, code, signal, at}: of the main process; written when every descendant is gone
      state.json     {version, ...}: the agent's own progress: reason, message, what it holds in the cache
      result.json    the final RunObservation; nothing happens to the run after it
      log            stdout and stderr, append only
      metrics.jsonl  one sample a line, see ``agent/metrics``
      reports.jsonl  what it reported by step, see ``agent/reports``; reports.json: how far was read for it
      times          when the log's bytes came, see ``agent/logtimes``
      exchange/      what the workload tells of itself, and the notice that it is to end, see ``exchange.py``
      work/ tmp/ outputs/<name>/ files/<n>   what the workload sees at its paths

Times are Unix seconds. Every file but ``log``, ``lock``, ``times`` and those of metrics and reports is written by
temporary file, fsync and rename. ``started`` without ``exited`` and without a held lock means that the run is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.kernel.run import RunKey, RunObservation, RunSpec

VERSION = 1


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` so that a reader, or a crash, sees the old content or the new."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def remove_tree(path: Path) -> None:
    """Delete what a workload left, however deep it is nested and whatever it closed to us. Raises OSError."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(path)
        return
    if os.geteuid() != 0:
        # Its files are our user's own.
        subprocess.run(["chmod", "-R", "u+rwX", "--", path], capture_output=True, check=False)
    done = subprocess.run(["rm", "-rf", "--", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"{path} cannot be deleted")


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Started:
    """The shim's own process, the workload's main process, and when it began."""

    shim: int
    pid: int
    at: float


@dataclass(frozen=True)
class Exited:
    """``code`` is the process's, or 128 + ``signal``."""

    code: int
    signal: int | None
    at: float


@dataclass(frozen=True)
class Stop:
    """Somebody wants the run to end: SIGTERM, ``grace`` seconds, SIGKILL."""

    grace: float
    reason: str
    at: float
    message: str = ""


class RunDirectory:
    """One run on disk. Readers never see half a file; a missing file reads as None."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def key(self) -> str:
        return "/".join(self.path.parts[-4:])

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def reports(self) -> Path:
        return self.path / "reports.jsonl"

    @property
    def times(self) -> Path:
        return self.path / "times"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def exchange(self) -> Path:
        return self.path / "exchange"

    @property
    def files(self) -> Path:
        return self.path / "files"

    def output(self, name: str) -> Path:
        return self.path / "outputs" / name

    def spec(self) -> RunSpec:
        return RunSpec.model_validate_json((self.path / "spec.json").read_bytes())

    def created_at(self) -> float:
        return (self.path / "spec.json").stat().st_mtime

    def read(self, name: str) -> dict[str, Any] | None:
        """The JSON document of that name, or None."""
        try:
            document = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        return document if isinstance(document, dict) else None

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        write_file(self.path / name, json.dumps({"version": VERSION, **document}, separators=(",", ":")).encode())

    def started(self) -> Started | None:
        document = self.read("started")
        return Started(int(document["shim"]), int(document["pid"]), float(document["at"])) if document else None

    def exited(self) -> Exited | None:
        document = self.read("exited")
        if document is None:
            return None
        signal = document.get("signal")
        return Exited(int(document["code"]), None if signal is None else int(signal), float(document["at"]))

    def stop(self) -> Stop | None:
        document = self.read("stop")
        if document is None:
            return None
        return Stop(
            float(document["grace"]), str(document["reason"]), float(document["at"]), str(document.get("message", ""))
        )

    def result(self) -> RunObservation | None:
        try:
            return RunObservation.model_validate_json((self.path / "result.json").read_bytes())
        except FileNotFoundError:
            return None

    def write_result(self, result: RunObservation) -> None:
        write_file(self.path / "result.json", result.model_dump_json(exclude_none=True).encode())
        sync_directory(self.path)

    def alive(self) -> bool:
        """True while a shim holds the lock."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that several observers do not take each other for a shim.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def claim(self) -> int | None:
        """A descriptor that keeps every shim from starting while it is open; None while a shim lives."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def log_size(self) -> int:
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def said_at(self) -> float | None:
        """When something was last written to the log, in Unix seconds; None when there is none."""
        try:
            return self.log.stat().st_mtime
        except FileNotFoundError:
            return None

    def append_log(self, data: bytes) -> None:
        """The platform's own words among the workload's; one write, which no other cuts in two."""
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def read_log(self, offset: int, limit: int) -> bytes:
        return self.read_part("log", offset, limit)

    def read_part(self, part: str, offset: int, limit: int) -> bytes:
        """Of ``log``, ``reports`` or ``times``. Raises KeyError for another one."""
        try:
            with {"log": self.log, "reports": self.reports, "times": self.times}[part].open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def last_lines(self, count: int = 50, window: int = 64 * 1024) -> tuple[str, ...]:
        """The last lines of the log, from at most its last ``window`` bytes."""
        size = self.log_size()
        start = max(0, size - window)
        text = self.read_log(start, window).decode(errors="replace")
        lines = text.splitlines()
        return tuple((lines[1:] if start and len(lines) > 1 else lines)[-count:])

    def clear_scratch(self) -> None:
        """Drop what only the living workload needed."""
        for path in (self.work, self.tmp, self.path / "outputs", self.files):
            if path.exists():
                remove_tree(path)


class RunStore:
    """All run directories of one node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staging = root / ".staging"

    def prepare(self) -> None:
        """Make the root, and drop what a crash left half made or half dropped."""
        self.root.mkdir(parents=True, exist_ok=True)
        os.chmod(self.root, 0o700)
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir()

    def directory(self, key: str) -> RunDirectory:
        return RunDirectory(self.root.joinpath(*str(RunKey.parse(key)).split("/")))

    def create(self, spec: RunSpec, fill: Callable[[Path], None] | None = None) -> tuple[RunDirectory, bool]:
        """The run's directory, and whether this call made it. Atomic: one rename makes it with its spec.

        ``fill`` puts into a new one what must be there from the beginning.
        """
        final = self.directory(spec.key)
        if final.path.exists():
            return final, False
        staged = self._staging / uuid.uuid4().hex
        staged.mkdir(mode=0o700)
        write_file(staged / "spec.json", spec.model_dump_json().encode())
        if fill is not None:
            fill(staged)
        final.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(staged, final.path)
        except OSError:
            # Not empty: another call was first, and its directory is the run's.
            shutil.rmtree(staged)
            if not final.path.exists():
                raise
            return final, False
        sync_directory(final.path.parent)
        return final, True

    def remove(self, directory: RunDirectory) -> None:
        """Gone by one rename, then deleted; empty parents go too."""
        gone = self._staging / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):
            os.rename(directory.path, gone)
            remove_tree(gone)
        for parent in list(directory.path.parents)[:3]:
            try:
                parent.rmdir()
            except OSError:
                break  # another run of the same resource lives there

    def all(self) -> Iterator[RunDirectory]:
        for spec in sorted(self.root.glob("*/*/*/*/spec.json")):
            if not spec.is_relative_to(self._staging):
                yield RunDirectory(spec.parent)
