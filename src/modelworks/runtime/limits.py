"""Limits of a run: memory by cgroup where one may be made, CPUs by affinity, shares of a CPU by weight."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelworks.kernel.quantities import format_bytes
from modelworks.runtime import kernelfiles

_ROOT = Path("/sys/fs/cgroup")
_FOLDER = "modelworks"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)


@dataclass(frozen=True)
class Cgroups:
    """Where groups can be made on this machine: ``memory`` and ``cpu`` hold one folder a run. None: not possible."""

    version: int = 0
    memory: Path | None = None
    cpu: Path | None = None

    def create(self, key: str, memory: int, millicores: int) -> list[Path]:
        """Make the run's groups with their limits; the paths to which the workload writes itself."""
        made = []
        for parent in {p for p in (self.memory, self.cpu) if p is not None}:
            group = parent / _name(key)
            group.mkdir(parents=True, exist_ok=True)
            made.append(group / "cgroup.procs")
        if self.memory is not None:
            _limit_memory(self.memory / _name(key), self.version, memory)
        if self.cpu is not None:
            _weigh(self.cpu / _name(key), self.version, millicores)
        return made

    def group(self, key: str) -> MemoryGroup | None:
        """The run's memory group, when it has one."""
        if self.memory is None or not (self.memory / _name(key)).is_dir():
            return None
        return MemoryGroup(self.memory / _name(key), self.version)

    def members(self, key: str) -> list[int]:
        """Processes in any of the run's groups."""
        found: set[int] = set()
        for parent in (self.memory, self.cpu):
            with contextlib.suppress(FileNotFoundError):
                if parent is not None:
                    found.update(int(pid) for pid in (parent / _name(key) / "cgroup.procs").read_text().split())
        return sorted(found)

    def remove(self, key: str) -> None:
        """Drop the run's groups; they are empty once the run has exited.

        A container engine makes one below them, and in the other hierarchies of the first version too.
        """
        groups = {p / _name(key) for p in (self.memory, self.cpu) if p is not None}
        if self.version == 1:
            groups |= set(_ROOT.glob(f"*/{_FOLDER}/{_name(key)}"))
        for group in groups:
            for one in (*(path for path in group.glob("*") if path.is_dir()), group):
                # Never made, gone already, or still busy: the next start of the agent tries again.
                with contextlib.suppress(OSError):
                    one.rmdir()


@dataclass(frozen=True)
class MemoryGroup:
    """Reads one memory group."""

    path: Path
    version: int

    def used(self) -> int:
        """Bytes that cannot be reclaimed: what is charged, less the page cache nobody has touched for a while."""
        name, cache = ("memory.current", "inactive_file") if self.version == 2 else (
            "memory.usage_in_bytes", "total_inactive_file",
        )  # fmt: skip
        charged = _read_int(self.path / name) or 0
        return max(0, charged - _read_stat(self.path / "memory.stat", cache))

    def peak(self) -> int:
        return (
            _read_int(self.path / ("memory.peak" if self.version == 2 else "memory.max_usage_in_bytes")) or self.used()
        )

    def kills(self) -> int:
        """How often the kernel killed in this group for lack of memory."""
        return _read_stat(self.path / ("memory.events" if self.version == 2 else "memory.oom_control"), "oom_kill")


@functools.cache
def find_cgroups() -> Cgroups:
    """What this process may use of cgroups; ``MW_CGROUPS=off`` says nothing."""
    if os.environ.get("MW_CGROUPS", "").lower() in ("off", "0", "false", "no"):
        return Cgroups()
    if (_ROOT / "cgroup.controllers").exists():
        for parent in _v2_parents():
            controllers = _enable(parent)
            if "memory" in controllers and _works(parent / _FOLDER):
                folder = parent / _FOLDER
                return Cgroups(2, folder, folder if "cpu" in controllers else None)
        return Cgroups()
    memory, cpu = (_ROOT / name / _FOLDER for name in ("memory", "cpu"))
    return Cgroups(1, memory if _works(memory) else None, cpu if _works(cpu) else None)


def out_of_memory(used: int, limit: int) -> str:
    return f"OutOfMemory: used {format_bytes(used)} of {format_bytes(limit)}"


def cpu_count(millicores: int) -> int:
    """Whole CPUs a run may use at once; never below one."""
    return max(1, math.ceil(millicores / 1000))


def thread_variables(millicores: int) -> dict[str, str]:
    """Numeric libraries start a thread a CPU they see unless told otherwise."""
    return dict.fromkeys(THREAD_VARIABLES, str(cpu_count(millicores)))


def niceness(millicores: int) -> int:
    """A share of one CPU as a nice value (each step is a factor of 1.25); whole CPUs are 0."""
    return 0 if millicores >= 1000 else min(19, round(math.log(1000 / millicores) / math.log(1.25)))


def choose_cpus(millicores: int, available: Iterable[int], used: Mapping[int, float]) -> list[int]:
    """The least used CPUs, as many as the run needs."""
    ordered = sorted(available, key=lambda cpu: (used.get(cpu, 0.0), cpu))
    return sorted(ordered[: cpu_count(millicores)])


def _name(key: str) -> str:
    return f"r-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _limit_memory(group: Path, version: int, limit: int) -> None:
    if version == 2:
        (group / "memory.max").write_text(str(limit))
        optional = {"memory.swap.max": "0", "memory.oom.group": "1"}
    else:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        optional = {"memory.memsw.limit_in_bytes": str(limit)}
    for name, value in optional.items():
        # Swap accounting is a boot option.
        with contextlib.suppress(OSError):
            (group / name).write_text(value)


def _weigh(group: Path, version: int, millicores: int) -> None:
    if version == 2:
        (group / "cpu.weight").write_text(str(min(10000, max(1, round(millicores / 10)))))
    else:
        (group / "cpu.shares").write_text(str(min(262144, max(2, round(millicores * 1.024)))))


def _v2_parents() -> list[Path]:
    """Outermost first: the root, then the ancestors of this process's group (a delegated subtree)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            own = _ROOT / line[3:].strip().lstrip("/")
            return [p for p in [*reversed(own.parents), own] if p == _ROOT or _ROOT in p.parents]
    return [_ROOT]


def _enable(parent: Path) -> set[str]:
    """Controllers that children of ``parent`` have, after asking for those missing."""
    control = parent / "cgroup.subtree_control"
    for name in ("memory", "cpu"):
        with contextlib.suppress(OSError):
            if name not in control.read_text().split():
                control.write_text(f"+{name}")
    folder = parent / _FOLDER
    try:
        folder.mkdir(exist_ok=True)
        for name in ("memory", "cpu"):
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(f"+{name}")
        return set((folder / "cgroup.subtree_control").read_text().split())
    except OSError:
        return set()


def _works(folder: Path) -> bool:
    """Whether a process can be put into a group there."""
    trial = folder / f"probe-{os.getpid()}"
    try:
        trial.mkdir(parents=True)
    except OSError:
        return False
    try:
        script = 'echo 0 > "$1" && exit 0 || exit 1'
        command = ["/bin/sh", "-c", script, "sh", str(trial / "cgroup.procs")]
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        with contextlib.suppress(OSError):
            trial.rmdir()


def _read_int(path: Path) -> int | None:
    try:
        text = kernelfiles.read(path).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_stat(path: Path, field: str) -> int:
    wanted = field.encode()
    try:
        for line in kernelfiles.read(path).splitlines():
            name, _, value = line.partition(b" ")
            if name == wanted:
                return int(value)
    except OSError:
        return 0  # the group went with its run
    return 0
