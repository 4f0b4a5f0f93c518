"""What the benchmarks share: entries, medians of interleaved rounds, pinned processes, one file of results."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "bench.json"


class Unmeasurable(Exception):
    """What is missing for a figure: it is listed with the reason instead of a value."""


@dataclass(frozen=True)
class Entry:
    """One figure. ``ok`` is None when there is no value."""

    name: str
    value: float | None
    unit: str
    bar: float
    better: Literal["higher", "lower"]
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.bar if self.better == "higher" else self.value <= self.bar

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok, "context": {**machine(), **self.context}}


@dataclass(frozen=True)
class Figure:
    """What a benchmark promises to measure, and its bar."""

    name: str
    unit: str
    bar: float
    better: Literal["higher", "lower"]

    def entry(self, value: float, **context: Any) -> Entry:
        return Entry(self.name, round(value, 4), self.unit, self.bar, self.better, context)

    def medians(self, values: Sequence[float], **context: Any) -> Entry:
        """The median of several rounds, with all of them in the context."""
        return self.entry(statistics.median(values), rounds=[round(v, 4) for v in values], **context)

    def missing(self, reason: str) -> Entry:
        return Entry(self.name, None, self.unit, self.bar, self.better, {"reason": reason})


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "modelworks": importlib.metadata.version("modelworks"),
    }


def merge(entries: Sequence[Entry], path: Path = RESULTS) -> None:
    """Write the entries into the file of results; those of other benchmarks stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text()) if path.exists() else []
    new = {entry.name: entry.document() for entry in entries}
    merged = {**{e["name"]: e for e in old}, **new}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps([merged[name] for name in sorted(merged)], indent=1) + "\n")
    temporary.replace(path)


def interleaved(sides: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Measure the sides in the order A B, B A, A B, …: a machine that drifts favours none. One list for each side."""
    values: list[list[float]] = [[] for _ in sides]
    for i in range(rounds):
        order = range(len(sides)) if i % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            values[side].append(sides[side]())
    return values


def tool(name: str) -> str:
    """The path of a program. Raises Unmeasurable."""
    path = shutil.which(name)
    if path is None:
        raise Unmeasurable(f"{name} is not installed")
    return path


def two_cores() -> tuple[int, int]:
    """A core for the server and one for the load. Raises Unmeasurable."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Unmeasurable("needs two cores: one for the server, one for the load")
    return cores[0], cores[1]


@contextmanager
def process(argv: Sequence[str], *, core: int | None = None, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """A process, pinned to a core, ended by its pid. Yields the pid."""
    pinned = ["taskset", "-c", str(core), *argv] if core is not None else list(argv)
    child = subprocess.Popen(
        pinned, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield child.pid
    finally:
        child.terminate()
        try:
            child.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def wait_for(condition: Callable[[], bool], timeout: float, what: str) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise Unmeasurable(f"{what} within {timeout:g} s")
        time.sleep(0.01)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def folder(prefix: str = "mwb") -> Iterator[Path]:
    """A short temporary directory: sockets live in it."""
    path = Path(mkdtemp(prefix=prefix, dir="/tmp"))
    path.chmod(0o755)  # under root the database runs as another user
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def mw(home: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the CLI against ``home``. Raises Unmeasurable with its last lines when it fails."""
    program = Path(sys.executable).with_name("mw")
    done = subprocess.run(
        [str(program), *arguments],
        env={**os.environ, "MW_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise Unmeasurable(f"`mw {' '.join(arguments)}` ended with {done.returncode}: {tail}")
    return done


@contextmanager
def platform_home() -> Iterator[Path]:
    """A fresh home; whatever was started in it is stopped at the end."""
    with folder() as path:
        home = path / "h"
        try:
            yield home
        finally:
            if home.exists():
                mw(home, "down")


def up(home: Path) -> float:
    """``mw up --detach`` on free ports; the seconds until it says that it is ready."""
    start = time.monotonic()
    mw(home, "up", "--detach", "--port", "0", "--s3-port", "0")
    return time.monotonic() - start


def client(home: Path) -> dict[str, str]:
    """``url`` and ``api_key`` of the local user."""
    document: dict[str, str] = json.loads((home / "client.json").read_text())
    return document


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
