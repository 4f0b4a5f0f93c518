"""Kill the agent, the shim, or both: no process runs twice, and exit codes are true."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from tests.agents import AgentProcess, poll, python, run_spec, running_agent, wait_ended, wait_for, wait_log

from modelworks.home import Home
from modelworks.kernel.run import RunPhase, RunReason
from modelworks.runtime.launch import Prepared, make_directories, write_launch
from modelworks.runtime.local import LocalRuntime, ProcessPhase, kill_all
from modelworks.runtime.processes import with_variable
from modelworks.runtime.rundir import RunStore
from modelworks.runtime.sandbox import base_python, probe


@pytest.fixture(params=["", "off"], ids=["sandbox", "plain"])
def agent(request: pytest.FixtureRequest, home: Home) -> Iterator[AgentProcess]:
    with running_agent(home, MW_ISOLATION=request.param) as running:
        yield running


def test_a_run_survives_its_agent(agent: AgentProcess) -> None:
    program = (
        "import sys,time\nprint('up', flush=True)\nwhile True:\n    if sys.stdin.readline() == '': time.sleep(0.05)\n"
    )
    run = python(0, program)
    agent.client.ensure(run)
    wait_log(agent.client, run.key, b"up")
    before = wait_for(agent.client, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
    agent.kill()
    agent.start()
    after = wait_for(agent.client, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
    assert (after.pid, after.started_at) == (before.pid, before.started_at)
    agent.client.ensure(run)
    agent.client.stop(run.key, 5.0)
    seen = wait_ended(agent.client, run.key)
    assert (seen.reason, seen.exit_code) == (RunReason.STOPPED, 143)
    assert agent.client.log(run.key) == b"up\n"


def test_an_exit_while_no_agent_looks_is_told_later(agent: AgentProcess, home: Home) -> None:
    run = run_spec(0, "sh", "-c", "echo up; sleep 0.5; exit 9")
    agent.client.ensure(run)
    wait_log(agent.client, run.key, b"up")
    agent.kill()
    directory = RunStore(home.agent / "runs").directory(run.key)
    poll(lambda: directory.exited() is not None)
    agent.start()
    seen = wait_ended(agent.client, run.key)
    assert (seen.reason, seen.exit_code) == (RunReason.FAILED, 9)


def test_a_graceful_end_of_the_agent_leaves_runs_alone(agent: AgentProcess) -> None:
    run = run_spec(0, "sleep", "600")
    agent.client.ensure(run)
    before = wait_for(agent.client, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
    agent.kill(signal.SIGTERM)
    assert agent.process.returncode == 0
    agent.start()
    assert wait_for(agent.client, run.key, lambda seen: seen.phase is RunPhase.RUNNING).pid == before.pid


def test_without_its_shim_a_run_is_lost_and_its_tree_gone(agent: AgentProcess, home: Home) -> None:
    run = run_spec(0, "sh", "-c", "setsid sleep 600 & echo up; sleep 600")
    agent.client.ensure(run)
    wait_log(agent.client, run.key, b"up")
    started = RunStore(home.agent / "runs").directory(run.key).started()
    assert started is not None
    os.kill(started.shim, signal.SIGKILL)
    seen = wait_ended(agent.client, run.key)
    assert (seen.phase, seen.reason, seen.exit_code) == (RunPhase.LOST, RunReason.LOST, None)
    poll(lambda: with_variable("MW_RUN", run.key) == [])


def test_agent_and_shim_killed_together(agent: AgentProcess, home: Home) -> None:
    run = run_spec(0, "sh", "-c", "setsid sleep 600 & echo up; sleep 600")
    agent.client.ensure(run)
    wait_log(agent.client, run.key, b"up")
    agent.kill()
    started = RunStore(home.agent / "runs").directory(run.key).started()
    assert started is not None
    os.kill(started.shim, signal.SIGKILL)
    agent.start()
    assert wait_ended(agent.client, run.key).phase is RunPhase.LOST
    poll(lambda: with_variable("MW_RUN", run.key) == [])


def test_a_run_that_was_only_accepted_is_carried_out(home: Home) -> None:
    """The agent died between spec.json and the start."""
    store = RunStore(home.agent / "runs")
    home.agent.mkdir(parents=True)
    store.prepare()
    run = run_spec(0, "echo", "done")
    store.create(run)
    with running_agent(home) as agent:
        assert wait_ended(agent.client, run.key).reason is RunReason.COMPLETED
        assert agent.client.log(run.key) == b"done\n"


def test_a_run_that_was_only_prepared_is_started_once(home: Home) -> None:
    """The agent died between launch.json and the start, and two shims are started on it."""
    store, runtime = RunStore(home.agent / "runs"), LocalRuntime()
    home.agent.mkdir(parents=True)
    store.prepare()
    run = run_spec(0, "echo", "done")
    directory, _ = store.create(run)
    prepared = Prepared(python=base_python())
    make_directories(run, directory, home, prepared)
    write_launch(run, directory, home, probe(), prepared, [])
    shims = [runtime.start(directory) for _ in range(5)]
    for shim in shims:
        shim.communicate(timeout=30)
    poll(lambda: runtime.state(directory).phase is ProcessPhase.EXITED)
    with running_agent(home) as agent:
        assert wait_ended(agent.client, run.key).reason is RunReason.COMPLETED
        assert agent.client.log(run.key) == b"done\n"


def test_only_one_agent_a_home(home: Home) -> None:
    with running_agent(home) as agent:
        assert agent.spawn().wait(timeout=60) != 0
        assert agent.client.healthy()


def test_kill_all_ends_everything_without_an_agent(home: Home) -> None:
    with running_agent(home) as agent:
        runs = [run_spec(number, "sleep", "600") for number in range(3)]
        for run in runs:
            agent.client.ensure(run)
        for run in runs:
            wait_for(agent.client, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
        agent.kill()
        assert kill_all(home, grace=5.0) == 3
        assert all(with_variable("MW_RUN", run.key) == [] for run in runs)
        agent.start()
        assert [wait_ended(agent.client, run.key).reason for run in runs] == [RunReason.STOPPED] * 3


def test_stop_all(agent: AgentProcess) -> None:
    runs = [run_spec(number, "sleep", "600") for number in range(3)]
    for run in runs:
        agent.client.ensure(run)
    assert agent.client.stop_all(grace=5.0) == 3
    assert {seen.reason for seen in agent.client.observe()} == {RunReason.STOPPED}
