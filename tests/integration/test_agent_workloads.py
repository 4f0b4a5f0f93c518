"""Badly behaved workloads: each ends in the right state, with a message that a person can act on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import observe, poll, python, run_spec, running_agent, wait_ended, wait_for, wait_log

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.run import Resources, RunPhase, RunReason
from modelworks.runtime import limits
from modelworks.runtime.local import kill_all
from modelworks.runtime.processes import with_variable

MIB = 1 << 20


@pytest.fixture
def agent(home: Home, isolation: str) -> Iterator[InProcessAgent]:
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)


def test_missing_command(agent: InProcessAgent) -> None:
    run = run_spec(0, "no-such-program", "--flag")
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert (seen.reason, seen.exit_code) == (RunReason.START_FAILED, 127)
    assert seen.message == "command not found: no-such-program"


def test_a_crash_says_its_last_words(agent: InProcessAgent) -> None:
    run = python(0, "raise ValueError('no column named price')")
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert (seen.reason, seen.exit_code) == (RunReason.FAILED, 1)
    assert seen.message == "exit code 1: ValueError: no column named price"
    assert seen.last_lines[0].startswith("Traceback")


def test_death_by_signal(agent: InProcessAgent) -> None:
    run = run_spec(0, "sh", "-c", "kill -SEGV $$")
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert (seen.exit_code, seen.signal) == (139, 11)
    assert "SIGSEGV" in seen.message


def test_who_ignores_sigterm_is_killed_after_the_grace(agent: InProcessAgent) -> None:
    run = python(0, "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)")
    agent.ensure(run)
    wait_log(agent, run.key, b"up")
    agent.stop(run.key, 0.3)
    seen = wait_ended(agent, run.key)
    assert (seen.reason, seen.exit_code, seen.signal) == (RunReason.STOPPED, 137, 9)
    assert "ignored SIGTERM" in seen.message


def test_a_stop_lets_the_workload_finish(agent: InProcessAgent) -> None:
    program = (
        "import signal,sys,time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(600)"
    )
    run = python(0, program)
    agent.ensure(run)
    wait_log(agent, run.key, b"up")
    agent.stop(run.key, 30.0)
    seen = wait_ended(agent, run.key)
    assert (seen.reason, seen.exit_code) == (RunReason.STOPPED, 7)


def test_nothing_escapes_by_forking_twice(agent: InProcessAgent, tmp_path: Path) -> None:
    program = (
        "import os,time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        print('hidden', flush=True)\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "time.sleep(600)\n"
    )
    run = python(0, program)
    agent.ensure(run)
    wait_log(agent, run.key, b"hidden")
    assert len(with_variable("MW_RUN", run.key)) >= 2
    agent.stop(run.key, 5.0)
    wait_ended(agent, run.key)
    assert with_variable("MW_RUN", run.key) == []


def test_stragglers_end_with_the_main_process(agent: InProcessAgent) -> None:
    run = run_spec(0, "sh", "-c", "setsid sleep 600 & echo started")
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert (seen.reason, seen.exit_code) == (RunReason.COMPLETED, 0)
    assert with_variable("MW_RUN", run.key) == []


def test_the_whole_log_is_kept(agent: InProcessAgent) -> None:
    run = python(
        0, "import sys\nline = b'x' * 1023 + b'\\n'\nfor _ in range(100 * 1024): sys.stdout.buffer.write(line)"
    )
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.log_bytes == 100 * MIB
    assert len(agent.log(run.key, offset=100 * MIB - 10)) == 10


def test_time_limit(agent: InProcessAgent) -> None:
    run = run_spec(0, "sleep", "600", time_limit=0.2)
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.reason is RunReason.TIME_LIMIT
    assert "0.2s" in seen.message


@pytest.mark.parametrize("cgroups", ["on", "off"])
def test_memory(home: Home, monkeypatch: pytest.MonkeyPatch, cgroups: str) -> None:
    monkeypatch.setenv("MW_CGROUPS", cgroups)
    limits.find_cgroups.cache_clear()
    try:
        if cgroups == "on" and limits.find_cgroups().memory is None:
            pytest.skip("no writable memory cgroup here")
        with InProcessAgent(home) as agent:
            program = "import time\nheld = []\nwhile True:\n    held.append(bytearray(8 << 20))\n    time.sleep(0.02)\n"
            run = python(0, program, resources=Resources(memory="96Mi"))
            agent.ensure(run)
            seen = wait_ended(agent, run.key)
            agent.forget(run.key)
            group = limits.find_cgroups().group(run.key)
            kill_all(home, grace=0.0)
    finally:
        limits.find_cgroups.cache_clear()
    assert seen.reason is RunReason.OUT_OF_MEMORY
    assert seen.message.startswith("OutOfMemory: used ")
    assert seen.message.endswith(" of 96Mi")
    assert group is None


def test_cpus_are_counted(agent: InProcessAgent) -> None:
    run = python(
        0,
        "import os; print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])",
        resources=Resources(cpu="500m"),
    )
    agent.ensure(run)
    wait_ended(agent, run.key)
    assert agent.log(run.key) == b"1 1\n"


def test_metrics_arrive(agent: InProcessAgent) -> None:
    run = python(0, "import time\nheld = bytearray(64 << 20)\nwhile True: pass")
    agent.ensure(run)
    wait_for(agent, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
    poll(lambda: len(list(agent.metrics(run.key))) >= 2)
    last = list(agent.metrics(run.key))[-1]
    assert set(last) == {"at", "cpu", "memory", "gpu", "gpu_memory", "read", "written"}
    assert last["memory"] > 60 * MIB
    assert last["cpu"] > 0
    assert observe(agent, run.key).usage["memory"] > 60 * MIB
    agent.stop(run.key, 0.0)
    wait_ended(agent, run.key)


def test_a_flood_of_output_does_not_grow_the_agent(home: Home) -> None:
    with running_agent(home) as agent:
        run = python(0, "import sys\nfor _ in range(100): sys.stdout.buffer.write(b'y' * (1 << 20))")
        before = _resident(agent.process.pid)
        agent.client.ensure(run)
        seen = wait_ended(agent.client, run.key)
        assert seen.log_bytes == 100 * MIB
        assert _resident(agent.process.pid) - before < 16 * MIB


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_stop_during_the_start(agent: InProcessAgent) -> None:
    """Whenever the stop comes, the run ends soon, and not only after its grace."""
    for number in range(8):
        run = run_spec(number, "sleep", "600")
        agent.ensure(run)
        time.sleep(0.015 * number)  # reaches another step of the start each time
        agent.stop(run.key, 600.0)
        assert wait_ended(agent, run.key).reason is RunReason.STOPPED
