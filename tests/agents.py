"""Starting real agents for tests, and waiting for runs by their changes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from modelworks.home import Home
from modelworks.kernel.run import RunObservation, RunSpec
from modelworks.runtime.agent_client import AgentClient
from modelworks.runtime.base import Runtime
from modelworks.runtime.local import kill_all

PATIENCE = 60.0
_PROGRAM = (
    "import sys; from pathlib import Path; from modelworks.home import Home; from modelworks.agent import process; "
)


UID = f"t{secrets.token_hex(5)}"  # other test processes on this machine have other runs


def run_spec(number: int, *command: str, uid: str = UID, **fields: Any) -> RunSpec:
    values = {"workspace": "default", "kind": "TrainingJob", "name": "test", "command": command, "grace": 5.0}
    return RunSpec(key=f"{uid}/a1/{number}/0", **(values | fields))


def python(number: int, program: str, **fields: Any) -> RunSpec:
    return run_spec(number, "python", "-c", program, **fields)


def observe(runtime: Runtime, key: str) -> RunObservation:
    (found,) = runtime.observe(key)
    return found


def wait_for(runtime: Runtime, key: str, wanted: Callable[[RunObservation], bool]) -> RunObservation:
    """The first observation that is ``wanted``; fails with the last one when it does not come."""
    deadline, cursor = time.monotonic() + PATIENCE, 0
    while True:
        seen = observe(runtime, key)
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"not in time: {seen}\n{runtime.log(key)[-2000:]!r}"
        cursor, _ = runtime.changes(cursor, 0.5)


def wait_ended(runtime: Runtime, key: str) -> RunObservation:
    return wait_for(runtime, key, lambda seen: seen.phase.ended)


def wait_log(runtime: Runtime, key: str, text: bytes) -> bytes:
    """The log once it holds ``text``."""
    poll(lambda: text in runtime.log(key) or observe(runtime, key).phase.ended)
    log = runtime.log(key)
    assert text in log, f"{observe(runtime, key)}\n{log[-2000:]!r}"
    return log


def poll(condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
    """For what has no event to wait for."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


class AgentProcess:
    """A real agent. ``kill`` and ``start`` as often as a test likes."""

    def __init__(self, home: Home, env: Mapping[str, str]) -> None:
        self.home = home
        self.client = AgentClient(home.agent_socket)
        self.env = {**os.environ, **env}
        self.process: subprocess.Popen[bytes]

    def command(self) -> list[str]:
        return [sys.executable, "-c", _PROGRAM + f"process.run(Home(Path({str(self.home.root)!r})))"]

    def spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(), env=self.env)

    def start(self) -> None:
        self.process = self.spawn()
        poll(lambda: self.process.poll() is not None or self.client.healthy())
        assert self.process.poll() is None, "the agent ended"

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=20)


@contextmanager
def running_agent(home: Home, kind: type[AgentProcess] = AgentProcess, /, **env: str) -> Iterator[AgentProcess]:
    """An agent of ``home`` and, afterwards, nothing of it."""
    agent = kind(home, env)
    agent.start()
    try:
        yield agent
    finally:
        if agent.process.poll() is None:
            agent.kill(signal.SIGTERM)
        kill_all(home, grace=0.0)
        agent.client.close()
