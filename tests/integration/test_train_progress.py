"""What a script tells through the files of its run, and how it hears that it is to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelworks.train import progress, stop


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, file in (("PROGRESS", "progress.json"), ("METRICS", "metrics.jsonl"), ("NOTICE", "notice.json")):
        monkeypatch.setenv(f"MW_{name}_FILE", str(tmp_path / file))
    monkeypatch.setenv("MW_OUTPUT_DIR", str(tmp_path / "output"))
    return tmp_path


def _run(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | env, capture_output=True, text=True, check=False
    )


def test_progress_and_metrics(folder: Path) -> None:
    program = """
import time
from modelworks import train
for n in range(1, 6):
    with train.data_wait():
        time.sleep(0.03)
    time.sleep(0.01)
    train.step(n, steps=10, epoch=n / 5, loss=1 / n, samples=32, grad=float("nan"))
train.report({"accuracy": 0.5})
train.checkpoint.save(5, value=1, wait=True)
"""
    done = _run(program, MW_CHECKPOINT_DIR=str(folder / "checkpoints"))
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads((folder / "progress.json").read_text())
    assert (seen["version"], seen["step"], seen["steps"], seen["epoch"], seen["checkpoint"]) == (1, 5, 10, 1.0, 5)
    assert seen["metrics"] == {"loss": 0.2, "grad": None, "accuracy": 0.5}
    assert seen["step_seconds"] >= 0.04
    assert 0.3 < seen["data_share"] < 1
    assert 0 < seen["rates"]["samples"] <= 32 / 0.04
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line.get("loss")) for line in lines] == [(n, 1 / n) for n in range(1, 6)] + [(5, None)]
    assert lines[-1]["accuracy"] == 0.5
    assert json.loads((folder / "output" / "metrics.json").read_text()) == {"accuracy": 0.5}


def test_the_files_are_written_at_most_once_a_second(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress, "_progress", progress._Progress())
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    writes: list[int] = []
    for n in range(1, 25):
        clock[0] += 0.125
        progress.step(n, loss=n)
        written = json.loads((folder / "progress.json").read_text())["step"]
        if not writes or writes[-1] != written:
            writes.append(written)
    assert writes == [1, 9, 17]
    progress.flush()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 24


def test_what_cannot_be_told_ends_no_training(folder: Path) -> None:
    (folder / "progress.json").mkdir()
    (folder / "metrics.jsonl").mkdir()
    done = _run("from modelworks import train\nfor n in range(3):\n    train.step(n, loss=1.0)\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.count("the progress cannot be written") == 1


def test_only_the_first_process_of_a_replica_writes(folder: Path) -> None:
    assert _run("from modelworks import train; train.step(1, loss=1)", LOCAL_RANK="1").returncode == 0
    assert not list(folder.iterdir())


def test_outside_the_platform_nothing_is_written(tmp_path: Path) -> None:
    program = "from modelworks import train; train.step(1, loss=1); assert not train.should_stop()"
    assert _run(program).returncode == 0


def test_a_notice_is_read_from_its_file(folder: Path) -> None:
    assert stop.notice() is None
    assert not stop.should_stop()
    now = time.time()
    notice = {"version": 1, "reason": "Preempted", "at": now, "deadline": now + 90, "message": "node a is drained"}
    (folder / "notice.json").write_text(json.dumps(notice))
    seen = stop.notice()
    assert seen
    assert (seen.reason, seen.message, seen.at) == ("Preempted", "node a is drained", now)
    assert 0 < seen.seconds_left <= 90
    assert stop.should_stop()
    (folder / "notice.json").write_text("{")
    assert stop.notice()  # whatever it says, it is there


def test_sigterm_stops_and_the_handler_before_is_called(folder: Path) -> None:
    program = """
import os, signal
from modelworks import train
signal.signal(signal.SIGTERM, lambda number, frame: print("mine", flush=True))
assert not train.should_stop()
os.kill(os.getpid(), signal.SIGTERM)
assert train.should_stop()
"""
    done = _run(program)
    assert (done.returncode, done.stdout) == (0, "mine\n")


def test_a_signal_may_come_while_the_last_one_is_handled(folder: Path) -> None:
    """``timeout`` sends two; each line of the handler, and of what it calls, is interrupted here."""
    program = """
import os, signal, sys
from modelworks import train
assert not train.should_stop()
left = 100
def trace(frame, event, argument):
    global left
    if left and frame.f_code.co_filename.endswith(("/stop.py", "/threading.py")):
        left -= 1
        os.kill(os.getpid(), signal.SIGTERM)
    return trace
sys.settrace(trace)
os.kill(os.getpid(), signal.SIGTERM)
assert train.should_stop()
assert left < 100
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_thread_may_ask(folder: Path) -> None:
    program = """
import threading
from modelworks import train
thread = threading.Thread(target=train.should_stop); thread.start(); thread.join()
"""
    done = _run(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_ranks_exchange_each_call_or_each_20_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], 0

    def greatest(values: list[float]) -> list[float]:
        nonlocal asked
        asked += 1
        return values

    monkeypatch.setattr(stop.group, "size", lambda: 2)
    monkeypatch.setattr(stop.group, "greatest", greatest)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for seconds, expected in ((0.5, 20), (0.001, 1), (0.000001, 0)):
        monkeypatch.setattr(stop, "_exchange", stop._Exchange())
        asked = 0
        for _ in range(20):
            stop.should_stop()
            clock[0] += seconds
        assert asked >= expected
        assert seconds > 0.02 or asked < 8
