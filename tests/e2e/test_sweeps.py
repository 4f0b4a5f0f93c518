"""Sweeps on the real platform: trials as jobs, the best of them, pruning, and a controller that is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.agents import poll
from tests.cli_platform import Mw
from tests.documents import DOCS, blocks

from modelworks.kernel.quantities import format_money
from modelworks.sdk.client import Client
from modelworks.sdk.estimator import Estimator
from modelworks.sdk.session import Session
from modelworks.sdk.sweeps import Sweep
from modelworks.sdk.waiting import phase_of

# Reports the square of the distance from 0.3; `layers` makes it worse. The jobs run in the platform's own Python.
TRAIN = """
import time
from modelworks.train import hyperparameters, report, step, should_stop
h = hyperparameters()
x, layers = float(h["x"]), int(h.get("layers", 1))
step(1, steps=1, loss=(x - 0.3) ** 2 + layers - 1)
"""
# Gets no better than its own x, slowly where that is large, and goes on until it is told to stop.
LONG = """
import time
from modelworks.train import hyperparameters, step, should_stop
x = float(hyperparameters()["x"])
for n in range(1, 10_000):
    step(n, loss=x + 1 / n)
    if should_stop():
        break
    time.sleep(0.5 if x > 0.5 else 0.02)
"""


def manifest(tmp_path: Path, name: str, script: str = TRAIN, **spec: Any) -> str:
    (tmp_path / "code").mkdir(exist_ok=True)
    (tmp_path / "code" / "train.py").write_text(script)
    job = {"command": "python train.py", "code": str(tmp_path / "code"), "instance_type": "local.tiny"}
    whole = {
        "job": {**job, "grace_period": "5s"},
        "parameters": {"x": {"type": "float", "low": 0, "high": 1}},
        "objective": {"metric": "loss"},
        **spec,
    }
    return yaml.safe_dump({"kind": "Sweep", "metadata": {"name": name}, "spec": whole})


def trials(mw: Mw, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(mw.ok("sweep", "trials", name, "--json"))["items"]
    return found


def kill(mw: Mw, name: str) -> None:
    processes = json.loads(mw.ok("status", "--json"))["processes"]
    (pid,) = [one["pid"] for one in processes if one["name"] == name]
    os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_a_sweep_outlives_controller_and_database_is_extended_plotted_and_deleted(
    mw: Mw, client: Client, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {"algorithm": {"name": "tpe", "startup_trials": 3}, "parallel": 2, "trials": 4}
    mw.ok("apply", "-f", "-", stdin=manifest(tmp_path, "lines", **spec))
    poll(lambda: trials(mw, "lines"), 60)
    kill(mw, "controller")
    assert "Succeeded" in mw.ok("sweep", "wait", "lines")
    first = trials(mw, "lines")
    assert [(one["number"], one["state"], one["job"]) for one in first] == [
        (n, "complete", f"lines-{n}") for n in range(4)
    ]
    assert [one["value"] for one in first] == pytest.approx([(one["parameters"]["x"] - 0.3) ** 2 for one in first])
    assert len(list(client.resources("TrainingJob", labels=["modelworks/sweep=lines"]))) == 4
    # More trials: the same ones stay, and others follow, also when the database dies meanwhile.
    mw.ok("apply", "-f", "-", stdin=manifest(tmp_path, "lines", **{**spec, "trials": 6}))
    poll(lambda: len(trials(mw, "lines")) > 4, 60)
    kill(mw, "postgres")
    mw.ok("sweep", "wait", "lines")
    again = trials(mw, "lines")
    assert again[:4] == first
    assert len({one["parameters"]["x"] for one in again}) == len(again) == 6
    found = yaml.safe_load(mw.ok("sweep", "best", "lines"))
    assert found["value"] == min(one["value"] for one in again)
    assert found["job"] == f"lines-{found['trial']}"
    picture = tmp_path / "lines.png"
    mw.ok("sweep", "plot", "lines", "-o", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    data = json.loads(mw.ok("sweep", "plot", "lines", "--json"))
    assert data["history"][-1]["best"] == pytest.approx(found["value"])
    assert len(data["coordinates"]) == 6
    assert "lines" in mw.ok("sweep", "list")
    mw.ok("sweep", "delete", "lines")
    assert list(client.resources("TrainingJob")) == []


@pytest.mark.timeout(300)
def test_a_grid_is_whole_and_asha_ends_the_worse_ones(mw: Mw, client: Client, tmp_path: Path) -> None:
    grid = {"x": [0.3, 0.5], "layers": {"type": "int", "low": 1, "high": 2}}
    written = yaml.safe_load(manifest(tmp_path, "grid"))["spec"]["job"]
    estimator = Estimator(
        command=written["command"],
        source_dir=written["code"],
        instance_type="local.tiny",
        session=Session(endpoint=client.url, api_key=json.loads(mw.home.client.read_text())["api_key"]),
    )
    sweep = Sweep(estimator, grid, "loss", algorithm="grid", parallel=2).run(name="grid")
    algorithm = {"name": "asha", "min_resource": 5, "reduction_factor": 2, "max_resource": 120}
    xs = {"x": {"type": "categorical", "choices": [0.1, 0.9]}}
    (tmp_path / "long").mkdir()
    text = manifest(tmp_path / "long", "halving", LONG, algorithm=algorithm, parameters=xs, trials=2)
    points = {(one["parameters"]["layers"], one["parameters"]["x"]) for one in sweep.table}
    assert points == {(1, 0.3), (1, 0.5), (2, 0.3), (2, 0.5)}
    assert sweep.best["parameters"] == {"layers": 1, "x": 0.3}
    mw.ok("sweep", "delete", "grid")
    mw.ok("apply", "-f", "-", stdin=text)
    mw.ok("sweep", "wait", "halving")
    found = trials(mw, "halving")
    assert [(one["parameters"]["x"], one["state"]) for one in found] == [(0.1, "complete"), (0.9, "pruned")]
    assert found[0]["step"] >= 120 > found[1]["step"]
    assert "worse than most" in found[1]["reason"]
    assert phase_of(client.get("TrainingJob", "halving-1")) == "Cancelled"


def test_the_example_of_the_page(mw: Mw, tmp_path: Path) -> None:
    page = blocks((DOCS / "training-sweeps.md").read_text())
    (tmp_path / "sweep.yaml").write_text(next(block.text for block in page if block.language == "yaml"))
    commands = next(block.text for block in page if block.language == "sh").splitlines()
    said = {line: mw.ok(*line.partition("#")[0].split()[1:], cwd=tmp_path) for line in commands}
    assert any("Succeeded" in text for text in said.values())
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_what_fails_ends_a_sweep_and_stop_ends_its_trials(mw: Mw, client: Client, tmp_path: Path) -> None:
    mw.ok("apply", "-f", "-", stdin=manifest(tmp_path, "broken", "raise SystemExit(3)", trials=9, failures=1))
    (tmp_path / "long").mkdir()
    endless = manifest(tmp_path / "long", "endless", LONG, trials=9)
    mw.ok("apply", "-f", "-", stdin=endless)
    job = {"kind": "TrainingJob", "metadata": {"name": "one"}, "spec": yaml.safe_load(endless)["spec"]["job"]}
    estimate = json.loads(mw.ok("job", "validate", "-f", "-", "--json", stdin=yaml.safe_dump(job)))["estimate"]
    budget = 4 * estimate["price_per_hour"] / 3600
    mw.ok("apply", "-f", "-", stdin=manifest(tmp_path / "long", "dear", LONG, trials=9, budget=budget))
    done = mw("sweep", "wait", "broken")
    assert done.returncode == 6
    assert "more than 1 trials failed" in done.stdout
    poll(lambda: any(one["step"] for one in trials(mw, "endless")), 60)
    mw.ok("sweep", "stop", "endless")
    assert mw("sweep", "wait", "endless").returncode == 6
    assert [one["state"] for one in trials(mw, "endless")] == ["stopped"]
    assert phase_of(client.get("Sweep", "endless")) == "Stopped"
    assert mw("sweep", "wait", "dear").returncode == 6
    status = client.get("Sweep", "dear")["status"]
    assert (status["reason"], [one["state"] for one in trials(mw, "dear")]) == ("Budget", ["stopped"])
    assert f"the sweep's budget of {format_money(budget)} is spent" in status["message"]
    bill = json.loads(mw.ok("cost", "--json"))["items"]
    assert status["spent"] >= budget
    assert status["spent"] == pytest.approx(next(one["amount"] for one in bill if one["name"] == "dear-0"), rel=0.2)


def test_mistakes_are_told_with_their_paths(mw: Mw, tmp_path: Path) -> None:
    done = mw("apply", "-f", "-", stdin=manifest(tmp_path, "wrong", parameters={"x": {"type": "float", "low": 2}}))
    assert done.returncode == 2
    assert "spec.parameters.x" in done.stderr
    wrong = manifest(tmp_path, "wrong", job={"command": "true", "instance_type": "no.such"})
    done = mw("apply", "-f", "-", stdin=wrong)
    assert done.returncode == 2
    assert "spec.job.instance_type" in done.stderr
