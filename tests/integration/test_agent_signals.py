"""A stop reaches the program that does the work, through shells and launchers, and takes its helpers from nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.agents import run_spec, wait_ended, wait_log

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.run import File, RunReason
from modelworks.runtime import sandbox
from modelworks.runtime.local import kill_all
from modelworks.runtime.processes import with_variable

_TRAIN = """
import os, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(time.time()))
child = os.fork()  # as a loader's worker: SIGTERM would kill it
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(600)
print("up", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(0.5)
print("signals", len(asked), "worker", os.waitpid(child, os.WNOHANG), flush=True)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
sys.exit(0)
"""


@pytest.fixture(params=["sandbox", "plain"])
def agent(request: pytest.FixtureRequest, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessAgent]:
    """With the sandbox, and without."""
    if request.param == "plain":
        monkeypatch.setenv("MW_ISOLATION", "off")
    sandbox.probe.cache_clear()
    if request.param == "sandbox" and not sandbox.probe().enabled:
        pytest.skip(sandbox.probe().note)
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)
    sandbox.probe.cache_clear()


def stopped(agent: InProcessAgent, command: str, reason: RunReason = RunReason.PREEMPTED) -> str:
    """The log of a shell command that is stopped once it says ``up``."""
    program = File(path="/ml/program/train.py", content=_TRAIN)
    run = run_spec(0, "/bin/sh", "-c", command, files=(program,))
    agent.ensure(run)
    wait_log(agent, run.key, b"up")
    agent.stop(run.key, 30.0, "Preempted")
    assert wait_ended(agent, run.key).reason is reason
    assert with_variable("MW_RUN", run.key) == []
    return agent.log(run.key).decode()


@pytest.mark.parametrize(
    "command",
    [
        "python /ml/program/train.py; echo $? after",
        "python /ml/program/train.py | tee /tmp/out; echo 0 after",
        "timeout 500 env A=b nice python /ml/program/train.py; echo $? after",
        "bash -c 'trap \"echo cleaned\" EXIT; python /ml/program/train.py; echo $? after'",
        "(python /ml/program/train.py; echo $? after) & wait",
    ],
)
def test_only_the_program_is_told(agent: InProcessAgent, command: str) -> None:
    log = stopped(agent, command)
    assert "signals 1 worker (0, 0)" in log
    assert "0 after" in log


def test_a_shell_with_a_trap_is_told_itself(agent: InProcessAgent) -> None:
    log = stopped(agent, "trap 'echo saving; exit 0' TERM; sleep 600 & echo up; wait")
    assert "saving" in log


def test_a_program_that_is_started_meanwhile_is_told_too(agent: InProcessAgent) -> None:
    log = stopped(agent, "python /ml/program/train.py; python /ml/program/train.py")
    assert log.count("signals 1") == 2


def test_a_shell_that_only_waits_for_a_filter_is_told_itself(agent: InProcessAgent) -> None:
    log = stopped(agent, "touch /tmp/log; echo up; tail -f /tmp/log; echo after")
    assert "after" not in log
