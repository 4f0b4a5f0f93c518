"""One unit as the supervisor sees it while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace

from modelworks.supervisor import policy
from modelworks.supervisor.ask import Ask
from modelworks.supervisor.policy import Seen
from modelworks.supervisor.procfs import Identity
from modelworks.supervisor.standby import StandBy
from modelworks.supervisor.state import Process
from modelworks.supervisor.unit import Unit

ASK_EVERY = 0.03
ASK_TIMEOUT = 2.0


@dataclass
class Child:
    """``popen`` is None for a process that an earlier supervisor started. Times are monotonic, ``since`` is Unix."""

    unit: Unit
    seen: Seen = field(default_factory=Seen)
    identity: Identity | None = None
    popen: subprocess.Popen[bytes] | None = None
    pidfd: int | None = None
    adopted: bool = False
    starts: int = 0
    began: float = 0.0
    since: float = 0.0
    last_exit: str = ""
    ask: Ask | None = None
    asked_at: float = 0.0
    answered: int = 0  # how many of the unit's questions
    standby: StandBy | None = None
    draining: bool = False

    def running(self, identity: Identity, pidfd: int, now: float, popen: subprocess.Popen[bytes] | None) -> None:
        """It has been started, or found alive when ``popen`` is None."""
        self.identity, self.pidfd, self.popen = identity, pidfd, popen
        self.adopted = popen is None
        self.starts += popen is not None
        self.began, self.since, self.answered = now, time.time(), 0
        self.seen = replace(self.seen, running=True, ready_since=None)

    def ready(self, now: float) -> None:
        self.seen = replace(self.seen, ready_since=now, was_ready=True)

    def ended(self, now: float) -> bool:
        """It is gone: reap it and note how. True when that is a step's good end."""
        code = self.popen.wait() if self.popen is not None else None
        if self.pidfd is not None:
            os.close(self.pidfd)
        self.last_exit = exit_text(code)
        done = self.unit.step and code == 0
        failures = 0 if done else policy.failures_after(self.seen.failures, self.seen.ready_since, now, good=code == 0)
        self.seen = Seen(
            exited_at=now, failures=failures, was_ready=self.seen.was_ready or done, done=done, ready_since=None
        )
        self.identity = self.popen = self.pidfd = None
        return done

    def parted(self, now: float) -> Child:
        """It drains since it was asked to, and its successor may start at once: answers what waits for its end now."""
        old = replace(self)
        self.seen = Seen(exited_at=now, was_ready=self.seen.was_ready)
        self.last_exit = "asked to end"
        self.identity = self.popen = self.pidfd = self.standby = None
        self.draining = False
        return old

    def record(self, phase: str) -> Process:
        return Process(
            unit=self.unit,
            phase=phase,
            identity=self.identity,
            since=self.since,
            restarts=max(0, self.starts - (not self.adopted)),
            last_exit=self.last_exit,
        )


def exit_text(code: int | None) -> str:
    """``exit code 1``, ``killed by SIGKILL``; the code of a process that was not our child is not known."""
    if code is None:
        return "ended (exit code unknown)"
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal
            return f"killed by signal {-code}"
    return f"exit code {code}"
