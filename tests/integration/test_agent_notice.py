"""The directory between a workload and its agent, and the notice in it, against workloads that mean no good."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import python, wait_ended, wait_log

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.run import RunReason
from modelworks.runtime import exchange
from modelworks.runtime.exchange import METRICS, NOTICE, PROGRESS, Exchange
from modelworks.runtime.local import kill_all
from modelworks.runtime.rundir import RunDirectory, RunStore

_TELLS_ITS_NOTICE = """
import json, os, signal, sys, time
def stop(*_):
    print('notice', open(os.environ['MW_NOTICE_FILE']).read(), flush=True)
    sys.exit(0)
signal.signal(15, stop)
for name in ('MW_PROGRESS_FILE', 'MW_METRICS_FILE'):
    open(os.environ[name], 'w').write('{}')
print('up', flush=True)
time.sleep(600)
"""


@pytest.fixture
def agent(home: Home, isolation: str) -> Iterator[InProcessAgent]:
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)


def directory(home: Home, key: str) -> RunDirectory:
    return RunStore(home.agent / "runs").directory(key)


def test_the_notice_is_there_before_the_signal(agent: InProcessAgent, home: Home, isolation: str) -> None:
    run = python(0, _TELLS_ITS_NOTICE)
    agent.ensure(run)
    wait_log(agent, run.key, b"up")
    agent.stop(run.key, 30.0, "Preempted")
    seen = wait_ended(agent, run.key)
    assert (seen.reason, seen.exit_code) == (RunReason.PREEMPTED, 0)
    (line,) = [line for line in agent.log(run.key).decode().splitlines() if line.startswith("notice ")]
    notice = json.loads(line.removeprefix("notice "))
    assert (notice["version"], notice["reason"]) == (1, "Preempted")
    assert notice["deadline"] == pytest.approx(notice["at"] + 30.0)
    assert Exchange(directory(home, run.key).exchange).read(PROGRESS) == b"{}"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "closed"])
def test_what_a_workload_left_in_the_way_harms_nobody(
    agent: InProcessAgent, home: Home, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    make = {
        "link": f"os.symlink({str(victim)!r}, path)",
        "folder": "os.makedirs(path + '/full')",
        "pipe": "os.mkfifo(path)",
        "closed": "open(path, 'w'); os.chmod(path, 0); os.chmod(os.path.dirname(path), 0o500)",
    }[kind]
    names = ("MW_PROGRESS_FILE", "MW_METRICS_FILE", "MW_NOTICE_FILE")
    program = (
        f"import os, time\nfor name in {names!r}:\n    path = os.environ[name]\n"
        f"    if os.access(os.path.dirname(path), os.W_OK): {make}\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    run = python(0, program)
    agent.ensure(run)
    wait_log(agent, run.key, b"up")
    found = Exchange(directory(home, run.key).exchange)
    assert {found.read(name) for name in (PROGRESS, METRICS)} == {b""}
    agent.stop(run.key, 5.0, "Preempted")
    assert wait_ended(agent, run.key).reason is RunReason.PREEMPTED
    assert victim.read_text() == "untouched"


def test_reading_is_bounded(tmp_path: Path) -> None:
    found = Exchange(tmp_path / "exchange")
    assert (found.read(PROGRESS), found.size(METRICS)) == (b"", 0)
    found.write_notice("Preempted", 1.0, 2.0)  # there is no directory: nothing to tell, and nobody
    found.path.mkdir()
    (found.path / METRICS).write_bytes(b"x" * 100_000)
    assert (len(found.read(METRICS)), len(found.read(METRICS, 99_000)), found.size(METRICS)) == (65_536, 1000, 100_000)
    found.write_notice("Preempted", 1.0, 2.0, "the node is drained")
    assert json.loads((found.path / NOTICE).read_bytes())["message"] == "the node is drained"
    assert sorted(os.listdir(found.path)) == [METRICS, NOTICE]


def test_the_variables_name_the_three_files() -> None:
    found = exchange.variables(exchange.MOUNT)
    assert found["MW_NOTICE_FILE"] == "/run/modelworks/exchange/notice.json"
    assert sorted(found) == ["MW_METRICS_FILE", "MW_NOTICE_FILE", "MW_PROGRESS_FILE"]
