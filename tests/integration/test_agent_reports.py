"""What a run reports of itself reaches its agent, once each; nothing that it writes there harms anybody."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest
from tests.agents import AgentProcess, observe, poll, python, running_agent, wait_ended, wait_for

from modelworks.home import Home


@pytest.fixture
def agent(home: Home) -> Iterator[AgentProcess]:
    with running_agent(home) as agent:
        yield agent


def reports(agent: AgentProcess, key: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in agent.client.log(key, part="reports").splitlines()]


def test_steps_and_metrics_of_a_script_are_seen_while_it_works_and_after(agent: AgentProcess) -> None:
    program = """
import os, pathlib, time
from modelworks import train
from modelworks.train import progress
for n in range(1, 41):
    train.step(n, steps=100, samples=32, loss=1 / n)
    time.sleep(0.01)
progress.flush()
while not pathlib.Path("/tmp/go").exists():
    time.sleep(0.02)
for n in range(41, 101):
    train.step(n, loss=1 / n)
"""
    run = python(0, program)
    agent.client.ensure(run)
    seen = wait_for(agent.client, run.key, lambda seen: seen.progress is not None and seen.progress.step == 40)
    assert seen.progress is not None
    assert seen.progress.steps == 100
    assert seen.progress.metrics == {"loss": 1 / 40}
    assert seen.progress.rates["samples"] > 0
    poll(lambda: len(reports(agent, run.key)) == 40)
    # An agent that comes after it goes on where that one was.
    agent.kill(signal.SIGKILL)
    agent.start()
    (agent.home.agent / "runs" / run.key / "tmp" / "go").touch()
    seen = wait_ended(agent.client, run.key)
    assert seen.progress is not None
    assert seen.progress.step == 100
    assert [report["step"] for report in reports(agent, run.key)] == list(range(1, 101))


def test_numbers_are_found_in_the_log(agent: AgentProcess) -> None:
    program = """
import time
for n in range(3):
    print(f"epoch {n} step {10 * n} loss: {1 / (n + 1):.2f}", flush=True)
print("\\r 10% lr=0.5\\r 20% lr=0.25", end="")
"""
    numbers = {"step": r"step (\d+)", "loss": r"loss: ([0-9.]+)", "lr": r"lr=([0-9.]+)"}
    run = python(0, program, numbers=numbers)
    agent.client.ensure(run)
    seen = wait_ended(agent.client, run.key)
    found = [{name: value for name, value in report.items() if name != "at"} for report in reports(agent, run.key)]
    assert found == [
        {"step": 0, "loss": 1.0},
        {"step": 10, "loss": 0.5},
        {"step": 20, "loss": 0.33},
        {"step": 20, "lr": 0.5},
        {"step": 20, "lr": 0.25},
    ]
    assert seen.progress is not None
    assert (seen.progress.step, seen.progress.metrics) == (20, {"loss": 0.33, "lr": 0.25})


def test_a_pattern_that_others_would_hang_on_holds_nobody_up(agent: AgentProcess) -> None:
    run = python(0, "print('a' * 100_000); print('x=1')", numbers={"x": r"x=(\d)", "worst": r"(?:a+)+(b)"})
    agent.client.ensure(run)
    wait_ended(agent.client, run.key)
    assert [report.get("x") for report in reports(agent, run.key)] == [1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        "open(progress, 'w').write('[' * 100_000)",
        "open(progress, 'w').write('{\"step\": true}')",
        "open(progress, 'w').write('{\"step\": 1e999, \"metrics\": 3}')",
        "os.mkfifo(progress)",
        "os.symlink('/etc/passwd', progress)",
        "os.mkdir(progress)",
    ],
)
def test_what_is_no_progress_is_none(agent: AgentProcess, wrong: str) -> None:
    program = f"""
import os
progress = os.environ["MW_PROGRESS_FILE"]
{wrong}
with open(os.environ["MW_METRICS_FILE"], "w") as file:
    file.write('{{"step": "x"}}\\n[1]\\n{{"step": 1, "loss": "NaN", "ok": 2, "at": 1}}\\n' + "y" * 300_000)
"""
    run = python(0, program)
    agent.client.ensure(run)
    seen = wait_ended(agent.client, run.key)
    assert (seen.reason, seen.progress) == ("Completed", None)
    assert reports(agent, run.key) == [{"at": 1.0, "step": 1, "ok": 2.0}]


def test_when_the_bytes_of_a_log_came_is_known(agent: AgentProcess) -> None:
    program = "import time; print('first', flush=True); time.sleep(1.6); print('second', flush=True)"
    run = python(0, program)
    agent.client.ensure(run)
    wait_ended(agent.client, run.key)
    times = [tuple(map(int, line.split())) for line in agent.client.log(run.key, part="times").splitlines()]
    assert [size for _, size in times] == [6, 13]
    assert times[1][0] - times[0][0] > 500
    assert observe(agent.client, run.key).log_bytes == 13
