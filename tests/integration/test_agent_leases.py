"""Leases at a real agent: who is not heard of any more has its workloads ended, whatever became of the agent."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.agents import AgentProcess, poll, python, run_spec, running_agent, wait_ended, wait_for, wait_log

from modelworks.agent.lease import EXPIRED
from modelworks.home import Home
from modelworks.kernel.errors import Unavailable
from modelworks.kernel.run import RunObservation, RunPhase, RunReason, RunSpec
from modelworks.runtime.agent_client import AgentClient
from modelworks.runtime.rundir import RunStore

_LEASE = 3.0
_DEAF = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
print("deaf", flush=True)
time.sleep(600)
"""


@pytest.fixture
def agent(home: Home) -> Iterator[AgentProcess]:
    with running_agent(home) as process:
        yield process


def leased(client: AgentClient, spec: RunSpec, seconds: float = _LEASE) -> RunSpec:
    return spec.model_copy(update={"lease": seconds, "challenge": client.challenge()})


@contextmanager
def renewed(client: AgentClient) -> Iterator[None]:
    """A controller that is there."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_LEASE / 6):
            client.renew(client.challenge())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def running(client: AgentClient, spec: RunSpec) -> RunObservation:
    client.ensure(spec)
    return wait_for(client, spec.key, lambda seen: seen.phase is RunPhase.RUNNING)


def test_a_run_outlives_its_first_lease_while_somebody_answers(agent: AgentProcess) -> None:
    spec = leased(agent.client, python(0, f"import time; time.sleep({2 * _LEASE}); print('done')"))
    with renewed(agent.client):
        agent.client.ensure(spec)
        seen = wait_ended(agent.client, spec.key)
    assert seen.reason is RunReason.COMPLETED


def test_without_answers_it_ends_by_itself(agent: AgentProcess) -> None:
    spec = leased(agent.client, run_spec(0, "sleep", "600"), 1.0)
    agent.client.ensure(spec)
    seen = wait_ended(agent.client, spec.key)
    assert (seen.phase, seen.reason, seen.message) == (RunPhase.EXITED, RunReason.LEASE_EXPIRED, EXPIRED)
    # What is over stays over, and is not begun again.
    agent.client.renew(agent.client.challenge())
    assert agent.client.ensure(leased(agent.client, spec)) == seen


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "dies"])
def test_no_agent_is_needed_for_the_end(agent: AgentProcess, number: signal.Signals) -> None:
    """The workload ignores SIGTERM and has a child in a session of its own: both are gone, with nobody to stop them."""
    spec = leased(agent.client, python(0, _DEAF))
    running(agent.client, spec)
    wait_log(agent.client, spec.key, b"deaf")
    directory = RunStore(agent.home.agent / "runs").directory(spec.key)
    os.kill(agent.process.pid, number)
    poll(lambda: directory.exited() is not None)
    poll(lambda: not directory.alive())
    assert not _workloads(spec.key)
    stop = directory.stop()
    assert stop is not None
    assert stop.reason == RunReason.LEASE_EXPIRED
    if number is signal.SIGSTOP:
        os.kill(agent.process.pid, signal.SIGCONT)
    else:
        agent.process.wait()
        agent.start()
    assert wait_ended(agent.client, spec.key).reason is RunReason.LEASE_EXPIRED


def test_an_agent_that_returns_in_time_keeps_its_runs(agent: AgentProcess) -> None:
    spec = leased(agent.client, run_spec(0, "sleep", "600"), 30.0)
    first = running(agent.client, spec)
    until = _until(agent, spec)
    agent.kill()
    agent.start()
    agent.client.renew(agent.client.challenge())
    assert _until(agent, spec) > until
    assert wait_for(agent.client, spec.key, lambda seen: seen.phase is RunPhase.RUNNING).pid == first.pid


def test_a_late_answer_renews_nothing(agent: AgentProcess) -> None:
    late = agent.client.challenge()
    spec = leased(agent.client, run_spec(0, "sleep", "600"), 30.0)
    running(agent.client, spec)
    until = _until(agent, spec)
    agent.client.renew(late)
    assert _until(agent, spec) == until


def test_a_start_that_was_held_up_starts_nothing(agent: AgentProcess) -> None:
    spec = leased(agent.client, run_spec(0, "sleep", "600"), 1.0)
    other = leased(agent.client, run_spec(1, "sleep", "600"), 1.0)
    agent.client.ensure(other)
    wait_ended(agent.client, other.key)  # so long did the first one travel
    with pytest.raises(Unavailable, match="lease"):
        agent.client.ensure(spec)
    assert [seen.key for seen in agent.client.observe("")] == [other.key]


def test_what_is_not_yet_started_never_starts(agent: AgentProcess) -> None:
    """Its code cannot be fetched, since there is no store: it would wait for ever."""
    given = {"inputs": [{"channel": "c", "uri": "s3://nowhere/code/", "paths": ["/ml/usercode"]}]}
    spec = leased(agent.client, RunSpec(**(run_spec(0, "true").dump() | given)), 1.0)
    agent.client.ensure(spec)
    seen = wait_ended(agent.client, spec.key)
    assert (seen.reason, seen.started_at) == (RunReason.LEASE_EXPIRED, None)


def _until(agent: AgentProcess, spec: RunSpec) -> float:
    document = RunStore(agent.home.agent / "runs").directory(spec.key).read("lease")
    assert document is not None
    return float(document["until"])


def _workloads(key: str) -> list[str]:
    wanted, found = f"MW_RUN={key}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text())
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found
