"""A run that does nothing is seen to, by its agent alone; one that computes in silence is not."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator

import pytest
from tests.agents import AgentProcess, observe, python, running_agent, wait_for, wait_log

from modelworks.home import Home
from modelworks.kernel.run import Resources, RunPhase, RunSpec

# Rank 0 reduces, rank 1 waits for a message that nobody sends: the classic of a collective that is not called by all.
DEADLOCK = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
tensor = torch.ones(1)
dist.all_reduce(tensor)
print("together", int(tensor), flush=True)
def rank_zero_reduces():
    dist.all_reduce(tensor)
def rank_one_receives():
    dist.recv(tensor, src=0)
rank_zero_reduces() if dist.get_rank() == 0 else rank_one_receives()
"""


@pytest.fixture
def agent(home: Home) -> Iterator[AgentProcess]:
    with running_agent(home) as agent:
        yield agent


def pair() -> list[RunSpec]:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    uid = f"w{secrets.token_hex(5)}"
    half = Resources.parse({"cpu": "1", "memory": "2Gi"})
    return [
        python(rank, DEADLOCK, uid=uid, env={**shared, "RANK": str(rank)}, quiet=3.0, resources=half)
        for rank in range(2)
    ]


def test_a_deadlocked_all_reduce_is_seen_and_both_stacks_are_told(agent: AgentProcess) -> None:
    runs = pair()
    for run in runs:
        agent.client.ensure(run)
    for run in runs:
        wait_log(agent.client, run.key, b"together 2")
    for run in runs:
        seen = wait_for(agent.client, run.key, lambda seen: seen.idle or seen.phase.ended)
        assert seen.phase is RunPhase.RUNNING
        assert seen.active_at is not None
    first, second = (agent.client.stacks(run.key, record=True) for run in runs)
    assert "rank_zero_reduces" in first
    assert "all_reduce (torch/distributed/distributed_c10d.py" in first
    assert "rank_one_receives" in second
    assert "recv (torch/distributed/distributed_c10d.py" in second
    # What the platform wrote into their logs is no sign of work: nobody took it for one since.
    assert b"modelworks: what every process does" in agent.client.log(runs[0].key)
    cursor, _ = agent.client.changes(0, 0.0)
    agent.client.changes(cursor, 5.0)
    assert all(observe(agent.client, run.key).idle for run in runs)


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
ends = time.monotonic() + 10
while time.monotonic() < ends:
    busy = time.thread_time() + 0.01
    while time.thread_time() < busy:
        pass
    time.sleep(0.09)
"""
    run = python(0, program, quiet=2.0)
    agent.client.ensure(run)
    told = []

    def ended_and_never_idle(seen: object) -> bool:
        told.append(seen.idle)  # type: ignore[attr-defined]
        return seen.phase.ended  # type: ignore[attr-defined,no-any-return]

    wait_for(agent.client, run.key, ended_and_never_idle)
    assert not any(told)
