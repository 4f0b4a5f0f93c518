"""The child that prepares a home, seen from the supervisor: how it is started, and the JSON lines it answers with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.supervisor import logs
from modelworks.supervisor.policy import Phase
from modelworks.supervisor.procfs import Identity
from modelworks.supervisor.state import Ports, Process
from modelworks.supervisor.unit import Unit

NAME = "prepare"
PUBLIC = "public"
"""The address in a question that stands for the public socket, whose port is known when it has been bound."""


# -P: nothing in the directory where `mw up` is typed may pass for a module.
PYTHON = (sys.executable, "-P", "-m")
SWEEP = (*PYTHON, "modelworks.supervisor.sweep")


@dataclass(frozen=True)
class Program:
    """The commands the supervisor itself runs, each with arguments added: to prepare a home, and to end stray runs."""

    prepare: tuple[str, ...]
    sweep: tuple[str, ...]


@dataclass(frozen=True)
class Wish:
    """What the user asked of `up`; None is: as configured, or as it was."""

    host: str | None = None
    port: int | None = None
    s3_port: int | None = None


@dataclass(frozen=True)
class Addresses:
    """The first answer: where the doors are to be. ``shown_host`` is how a client on this machine reaches ``host``."""

    host: str
    port: int
    s3_port: int
    shown_host: str
    s3_url: str
    advertise_url: str | None = None


class Preparation:
    """It answers in lines: ``{"addresses": …}``, ``{"unit": …}`` as each can be started, ``{"line": …}`` for people,
    and ``{"failed": {"detail", "remedy"}}`` at most once.
    """

    def __init__(
        self, home: Home, command: Sequence[str], wish: Wish, known: Ports | None, running: Sequence[str]
    ) -> None:
        arguments = ["--home", str(home.root), "--running", ",".join(running)]
        for flag, wished, was in (
            ("host", wish.host, known and known.host),
            ("port", wish.port, known and known.port),
            ("s3-port", wish.s3_port, known and known.s3_port),
        ):
            if wished is not None:
                arguments += [f"--{flag}", str(wished)]
            if was:
                arguments += [f"--known-{flag}", str(was)]
        self._home = home
        self._rest = b""
        self._failed: dict[str, Any] | None = None
        self.ended = False
        self.unit = Unit(NAME, (*command, *arguments), step=True, stop_timeout=5.0)
        self._since = time.time()
        log = logs.open_log(home, NAME)
        try:
            self._popen = subprocess.Popen(
                self.unit.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                bufsize=0,
            )
        finally:
            os.close(log)

    def fileno(self) -> int:
        assert self._popen.stdout is not None
        return self._popen.stdout.fileno()

    def read(self) -> list[dict[str, Any]]:
        """The messages that have come. Call it when the descriptor is readable; ``ended`` is set at the last."""
        part = os.read(self.fileno(), 1 << 16)
        self.ended = not part
        *lines, self._rest = (self._rest + part).split(b"\n")
        messages = [json.loads(line) for line in lines if line]
        self._failed = next((m["failed"] for m in messages if "failed" in m), self._failed)
        return messages

    def record(self) -> Process:
        """For the state: whoever finds it without its supervisor ends it."""
        return Process(self.unit, Phase.STARTING, Identity.of(self._popen.pid), self._since)

    def finish(self) -> None:
        """Reap it. Raises SetupFailed when it did not do its work."""
        code = self._popen.wait()
        self._close()
        if self._failed is not None:
            raise SetupFailed(self._failed["detail"], remedy=self._failed["remedy"])
        if code:
            path = logs.path_of(self._home, NAME)
            lines = "".join(f"\n  | {line}" for line in logs.tail(path))
            raise SetupFailed(f"the home cannot be prepared (exit code {code}); the end of {path}:{lines}")

    def kill(self) -> None:
        """End it: what it has begun it begins again the next time."""
        self._popen.terminate()
        try:
            self._popen.wait(5.0)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._close()

    def _close(self) -> None:
        if self._popen.stdout is not None:
            self._popen.stdout.close()
