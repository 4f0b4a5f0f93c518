"""Distributed training beside bare torchrun: the same script, in turns; and what the platform takes meanwhile.

Both sides are at the ready the whole time; one works, the other waits. While torchrun works, every process of the
platform is stopped, so that torchrun has the machine to itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.bench import processes
from tests.bench.harness import Entry, Figure, Unmeasurable, folder, interleaved, two_cores, wait_for
from tests.cli_platform import fresh

from modelworks.home import Home
from modelworks.sdk.client import Client

VS_TORCHRUN = Figure("training.vs_torchrun", "×", 1.03, "lower")
SCALING = Figure("training.scaling_vs_torchrun", "×", 0.97, "higher")
PLATFORM_CPU = Figure("training.platform_cpu_pct", "%", 0.5, "lower")
FIGURES = (VS_TORCHRUN, SCALING, PLATFORM_CPU)
_PAIRS, _STEPS = 12, 60
_CPU_SECONDS = 60.0
_SETTLE_SECONDS = 5.0  # what was put off while the platform was stopped
_PATIENCE = 300.0  # of a machine that has other things to do
_TYPE = {"cpu": 1, "memory": "2Gi"}


@dataclass
class _Turns:
    """A folder by which the scripts of both sides are told whose turn it is, and what each took for its steps."""

    path: Path
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    steps: dict[str, list[float]] = field(default_factory=dict)

    def take(self, side: str, steps: int = _STEPS) -> float:
        """The median of the seconds that a step takes."""
        seconds = self.ask(side, steps)()
        self.steps.setdefault(side, []).extend(seconds)
        return statistics.median(seconds)

    def ask(self, side: str, steps: int) -> Callable[[], list[float]]:
        """Let the side begin; what comes back waits until it has done so many steps."""
        number = next(self.numbers)
        done = self.path / f"{side}.{number}"
        self._tell(f"{side} {number} {steps}")

        def result() -> list[float]:
            wait_for(done.exists, _PATIENCE, f"{side} did not take {steps} steps")
            return [float(value) for value in json.loads(done.read_text())]

        return result

    def end(self) -> None:
        self._tell("end")

    def _tell(self, text: str) -> None:
        temporary = self.path / "turn.tmp"
        temporary.write_text(text)
        temporary.rename(self.path / "turn")


@dataclass(frozen=True)
class _Compared:
    """Seconds of a step in each turn, and of all steps together."""

    ours: list[float]
    theirs: list[float]
    means: float

    @property
    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))


def run() -> Sequence[Entry]:
    if importlib.util.find_spec("torch") is None:
        raise Unmeasurable("torch is not installed")
    two_cores()
    with fresh() as mw:
        document = json.loads(mw.home.client.read_text())
        client = Client(document["url"], document["api_key"])
        client.apply([_manifest("Volume", "turns", {"size": "1Gi", "shared": True})])
        wait_for(lambda: any(mw.home.volumes.iterdir()), _PATIENCE, "no volume")
        alone, _ = _compare(client, mw.home, ranks=1)
        both, used = _compare(client, mw.home, ranks=2, measured=True)
        client.close()
    ratios = [a / b for a, b in zip(both.ours, both.theirs, strict=True)]
    speeds = [2 * alone_s / both_s for alone_s, both_s in zip(alone.ours, both.ours, strict=True)]
    bare = [2 * alone_s / both_s for alone_s, both_s in zip(alone.theirs, both.theirs, strict=True)]
    total = sum(used.values())
    return [
        VS_TORCHRUN.medians(
            ratios,
            pairs=_PAIRS,
            steps=_STEPS,
            step_ms=round(1000 * statistics.median(both.theirs), 2),
            of_all_steps=round(both.means, 4),
        ),
        SCALING.entry(
            alone.ratio / both.ratio,
            ours=round(statistics.median(speeds), 3),
            torchrun=round(statistics.median(bare), 3),
            one_process_vs_torchrun=round(alone.ratio, 4),
        ),
        PLATFORM_CPU.entry(
            100 * total / (_CPU_SECONDS * (os.cpu_count() or 1)),
            of_one_core=round(100 * total / _CPU_SECONDS, 3),
            seconds=_CPU_SECONDS,
            ms_per_s={who: round(1000 * seconds / _CPU_SECONDS, 2) for who, seconds in used.items()},
        ),
    ]


def _compare(client: Client, home: Home, *, ranks: int, measured: bool = False) -> tuple[_Compared, dict[str, float]]:
    """Our job and torchrun with so many processes, in turns; and what the platform takes while the job works."""
    (volume,) = home.volumes.iterdir()
    name = f"ours-{ranks}"
    turns = _Turns(volume)
    turns.ask("nobody", 0)
    (volume / "ddp.py").write_text(Path(__file__).with_name("ddp.py").read_text())
    spec = {
        "command": ["python", "/mnt/turns/ddp.py"],
        "framework": "pytorch",
        "replicas": ranks,
        "resources": _TYPE,
        "env": {"TURNS": "/mnt/turns", "SIDE": "ours"},
        "volumes": [{"name": "turns", "mount_path": "/mnt/turns"}],
    }
    client.apply([_manifest("TrainingJob", name, spec)])
    with _torchrun(volume, ranks):

        def ours() -> float:
            return turns.take("ours")

        def theirs() -> float:
            with processes.stopped(home.root):
                return turns.take("torchrun")

        try:
            turns.take("torchrun", 1)  # both have begun
            turns.take("ours", 1)
        except Unmeasurable as error:
            raise Unmeasurable(f"{error}; {client.get('TrainingJob', name)['status']['message']}") from error
        turns.steps.clear()
        values = interleaved([ours, theirs], _PAIRS)
        means = statistics.mean(turns.steps["ours"]) / statistics.mean(turns.steps["torchrun"])
        used = _platform(turns, home, statistics.median(values[0])) if measured else {}
        turns.end()
        wait_for(
            lambda: client.get("TrainingJob", name)["status"]["phase"] == "Succeeded", _PATIENCE, f"{name} goes on"
        )
    for file in volume.glob("*.*"):
        file.unlink()
    return _Compared(values[0], values[1], means), used


def _platform(turns: _Turns, home: Home, step_s: float) -> dict[str, float]:
    """CPU seconds of the platform's processes by name, over a long stretch of work of our job's."""
    working = turns.ask("ours", int(1.2 * (_SETTLE_SECONDS + _CPU_SECONDS) / step_s))
    time.sleep(_SETTLE_SECONDS)
    pids = processes.of_platform(home.root)
    before = processes.cpu_seconds(pids)
    time.sleep(_CPU_SECONDS)
    after = processes.cpu_seconds(processes.of_platform(home.root))
    used: dict[str, float] = {}
    for pid, seconds in after.items():
        who = processes.name(pid)
        used[who] = used.get(who, 0.0) + seconds - before.get(pid, 0.0)
    working()
    return dict(sorted(used.items(), key=lambda item: -item[1]))


@contextmanager
def _torchrun(volume: Path, ranks: int) -> Iterator[None]:
    """torchrun itself, which knows nothing of the platform, nor its folder: what names it counts as the platform's."""
    with folder() as own:
        link = own / "turns"
        link.symlink_to(volume)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MW_")}
        program = Path(sys.executable).with_name("torchrun")
        started = subprocess.Popen(
            [str(program), "--standalone", "--nproc-per-node", str(ranks), str(link / "ddp.py")],
            env={**kept, "OMP_NUM_THREADS": "1", "TURNS": str(link), "SIDE": "torchrun"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            yield
            started.communicate(timeout=_PATIENCE)
        finally:
            started.terminate()
            _, said = started.communicate()
        if started.returncode:
            raise Unmeasurable(f"torchrun ended with {started.returncode}: {said.decode(errors='replace')[-300:]}")


def _manifest(kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "modelworks/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
