"""A run that does nothing is seen to, by its agent alone; one that computes in silence is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.agents import AgentProcess, observe, poll, python, running_agent, wait_for

from modelworks.home import Home
from modelworks.kernel.run import RunObservation


@pytest.fixture
def agent(home: Home) -> Iterator[AgentProcess]:
    with running_agent(home) as agent:
        yield agent


def test_what_the_platform_writes_into_the_log_is_no_sign_of_work(agent: AgentProcess) -> None:
    run = python(0, "import time; print('begun', flush=True); time.sleep(600)", quiet=2.0)
    agent.client.ensure(run)
    seen = wait_for(agent.client, run.key, lambda seen: seen.idle)
    assert seen.active_at is not None
    agent.client.stacks(run.key, record=True)
    assert b"modelworks: what every process does" in agent.client.log(run.key)
    # An agent looks when it takes a sample.
    taken = len(list(agent.client.metrics(run.key)))
    poll(lambda: len(list(agent.client.metrics(run.key))) >= taken + 2)
    assert observe(agent.client, run.key) == seen.model_copy(
        update={"usage": observe(agent.client, run.key).usage, "log_bytes": len(agent.client.log(run.key))}
    )


def test_a_run_that_comes_back_is_told_of_too(agent: AgentProcess) -> None:
    program = """
import os, time
print("begun", flush=True)
while not os.path.exists(os.environ["MW_OUTPUT_DIR"] + "/go"):
    time.sleep(0.05)
print("back", flush=True)
time.sleep(600)
"""
    run = python(0, program, quiet=2.0, env={"MW_OUTPUT_DIR": "/tmp"})
    agent.client.ensure(run)
    wait_for(agent.client, run.key, lambda seen: seen.idle)
    (agent.home.agent / "runs" / run.key / "tmp" / "go").touch()
    wait_for(agent.client, run.key, lambda seen: not seen.idle)
    wait_for(agent.client, run.key, lambda seen: seen.idle)


def test_a_run_that_computes_in_silence_is_not_idle(agent: AgentProcess) -> None:
    """A tenth of a core, for several times as long as silence may last."""
    program = """
import time
ends = time.monotonic() + 7
while time.monotonic() < ends:
    busy = time.thread_time() + 0.01
    while time.thread_time() < busy:
        pass
    time.sleep(0.09)
"""
    run = python(0, program, quiet=2.0)
    agent.client.ensure(run)
    told = []

    def ended_and_never_idle(seen: RunObservation) -> bool:
        told.append(seen.idle)
        return seen.phase.ended

    wait_for(agent.client, run.key, ended_and_never_idle)
    assert not any(told)
