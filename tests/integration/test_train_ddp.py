"""Two ranks that train together: whatever ends them, what resumes is the undisturbed run, to the last digit."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import pytest
from tests import train_ddp

from modelworks.runtime.launch import free_port

pytest.importorskip("torch")

# Forked from a process that has imported torch, and what its optimizers import when they are first made: that takes
# seconds, and the tests start some fifteen.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["torch", "torch.distributed", "torch.nn.parallel", "torch.utils.data", "torch._dynamo"])
EVERY, STEPS = 5, 18


@dataclass
class Ended:
    """What one rank printed."""

    code: int
    resumed: int
    losses: dict[int, str] = field(default_factory=dict)
    weights: str | None = None
    stopped: int | None = None

    @classmethod
    def of(cls, code: int, lines: list[str]) -> Ended:
        said = [line.split() for line in lines]
        found = cls(code, next((int(words[1]) for words in said if words[0] == "resumed"), -1))
        for words in said:
            if words[0].isdecimal():
                found.losses[int(words[0])] = words[1]
            elif words[0] == "weights":
                found.weights = words[1]
            elif words[0] == "stopped":
                found.stopped = int(words[1])
        return found


class Ranks:
    """Two processes; each has a folder of its own, as replicas on two machines have."""

    def __init__(self, root: Path, folders: tuple[str, str] = ("r0", "r1"), **env: str) -> None:
        port = str(free_port())
        self.notices = [root / f"notice-{rank}" for rank in range(2)]
        self.processes: list[BaseProcess] = []
        self.outputs: list[TextIO] = []
        for rank in range(2):
            self.notices[rank].unlink(missing_ok=True)
            variables = {
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
                "MW_CHECKPOINT_DIR": str(root / folders[rank]),
                "MW_CHECKPOINT_EVERY": str(EVERY),
                "MW_NOTICE_FILE": str(self.notices[rank]),
            }
            mine, theirs = _FORKS.Pipe(duplex=False)
            process = _FORKS.Process(target=train_ddp.run, args=(theirs, variables | env))
            process.start()
            theirs.close()
            self.processes.append(process)
            self.outputs.append(os.fdopen(os.dup(mine.fileno())))
            mine.close()
        self.lines: list[list[str]] = [[], []]

    def read_until(self, step: int) -> None:
        """Rank 0 has done that step."""
        for line in self.outputs[0]:
            self.lines[0].append(line)
            if line.startswith(f"{step} "):
                return
        raise AssertionError(self.lines[0])

    def notify(self, rank: int, seconds: float) -> None:
        now = time.time()
        notice = {"version": 1, "reason": "Preempted", "at": now, "deadline": now + seconds, "message": ""}
        temporary = self.notices[rank].with_suffix(".tmp")
        temporary.write_text(json.dumps(notice))
        temporary.rename(self.notices[rank])

    def end(self) -> list[Ended]:
        """Once one has died the other is killed, as the platform does."""
        waiting = {process.sentinel: process for process in self.processes}
        while waiting:
            for sentinel in wait(list(waiting)):
                if waiting.pop(sentinel).exitcode:  # type: ignore[call-overload]
                    for other in waiting.values():
                        other.kill()
        lines = [[*said, *output] for said, output in zip(self.lines, self.outputs, strict=True)]
        return [Ended.of(p.exitcode or 0, said) for p, said in zip(self.processes, lines, strict=True)]

    def close(self) -> None:
        for process, output in zip(self.processes, self.outputs, strict=True):
            process.kill()
            process.join()
            output.close()


def _run(root: Path, folders: tuple[str, str] = ("r0", "r1"), **env: str) -> list[Ended]:
    ranks = Ranks(root, folders, **env)
    try:
        return ranks.end()
    finally:
        ranks.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    ended = _run(tmp_path_factory.mktemp("undisturbed"))
    assert [(e.code, e.resumed, len(e.losses)) for e in ended] == [(0, 0, STEPS)] * 2
    assert ended[0].losses != ended[1].losses
    return ended


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def _is_the_same(undisturbed: list[Ended], *attempts: list[Ended]) -> None:
    """Every step that was taken, whichever attempt took it, had the loss it would have had; so have the weights."""
    for rank in range(2):
        for attempt in attempts:
            expected = {step: undisturbed[rank].losses[step] for step in attempt[rank].losses}
            assert attempt[rank].losses == expected
        assert attempts[-1][rank].weights == undisturbed[rank].weights


def test_a_notice_to_one_rank_stops_both_on_one_step_and_loses_none(root: Path, undisturbed: list[Ended]) -> None:
    ranks = Ranks(root, PAUSE="0.02")
    try:
        ranks.read_until(7)
        ranks.notify(1, 30.0)
        first = ranks.end()
    finally:
        ranks.close()
    step = first[0].stopped
    assert step is not None
    assert [(e.code, e.stopped) for e in first] == [(0, step)] * 2
    second = _run(root)
    assert [e.resumed for e in second] == [step, step]
    _is_the_same(undisturbed, first, second)


def test_a_kill_loses_at_most_one_interval(root: Path, undisturbed: list[Ended]) -> None:
    first = _run(root, DIE_AT="13", DIE_RANK="1")
    assert -signal.SIGKILL in [e.code for e in first]
    second = _run(root, DIE_AT="17", DIE_RANK="0")
    assert second[0].resumed == second[1].resumed == 10
    # Both ranks' parts now lie in the other's folder: what a rank needs is found wherever it is.
    third = _run(root, ("r1", "r0"))
    assert third[0].resumed == third[1].resumed == 15
    _is_the_same(undisturbed, first, second, third)


def test_a_rank_whose_folder_is_empty_is_sent_what_it_needs(root: Path, undisturbed: list[Ended]) -> None:
    _run(root, DIE_AT="13", DIE_RANK="0")
    shutil.rmtree(root / "r1")
    # Its own generators are lost, so the losses differ; the step, the weights and the place in the data are there.
    ended = _run(root)
    assert [e.code for e in ended] == [0, 0]
    assert {e.resumed for e in ended} == {10}
    assert len(ended[0].losses) == len(ended[1].losses) == STEPS - ended[0].resumed
    assert ended[0].weights != undisturbed[0].weights
