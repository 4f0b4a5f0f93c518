"""The agent's part in the relay: it starts one while replicas are to be reached from other machines, and says which."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import modelworks
from modelworks.agent import relayport
from modelworks.agent.waiting import readable
from modelworks.home import Home
from modelworks.kernel.run import RunSpec
from modelworks.runtime import launch

_LOOK, _LONGEST = 1.0, 30.0  # seconds between looks at the relay, and at most between tries to have one
_ENDING = 5.0
log = logging.getLogger(__name__)


def pause_after(vain: int) -> float:
    """Seconds until the next look, after so many tries in vain to start a relay.

    Each try is an interpreter, and what is in the way may stay for ever.
    """
    return min(_LOOK * 2.0 ** min(vain, 16), _LONGEST)


class RelayKeeper:
    """``address`` is the relay's, None while there is none; ``problem`` says why there cannot be one."""

    def __init__(self, home: Home, host: str) -> None:
        self.address: str | None = None
        self.problem = ""
        self._home = home
        self._host = f"[{host}]" if ":" in host else host
        self._child: subprocess.Popen[bytes] | None = None
        self._woken = asyncio.Event()

    def admit(self, spec: RunSpec) -> None:
        """Who has the run's secret may reach its socket. Blocks for a moment on the disk."""
        if spec.relay:
            folder = self._home.relay_links
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.symlink(launch.socket_path(self._home, spec.key), folder / spec.relay)

    def dismiss(self, spec: RunSpec) -> None:
        """The run has ended."""
        if spec.relay:
            (self._home.relay_links / spec.relay).unlink(missing_ok=True)

    def wake(self) -> None:
        """A run has begun that may be the first to need it. Ends of runs are seen by the next look."""
        self._woken.set()

    async def keep(self, wanted: Callable[[], bool], changed: Callable[[], None]) -> None:
        """See to it until cancelled. ``wanted``: whether a run is to be reached; ``changed`` is called when ``address``
        or ``problem`` are others."""
        vain = 0
        while True:
            self._woken.clear()
            before, needed = (self.address, self.problem), wanted()
            try:
                if needed:
                    port = await self._port()
                    self.address, self.problem = f"tcp:{self._host}:{port}", ""
                else:
                    await self.end()
                vain = 0
            except OSError as error:
                self.address, self.problem = None, f"the relay of this node cannot start: {error.strerror or error}"
                vain += 1
            if before != (self.address, self.problem):
                if self.problem:
                    log.warning("%s", self.problem)
                changed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause_after(vain) if needed else None)
                vain = 0

    async def end(self) -> None:
        """No relay any more."""
        self.address, self.problem = None, ""
        if not self._running():
            return
        try:
            descriptor = os.pidfd_open(int(self._state()["pid"]))
        except (OSError, KeyError, ValueError):
            return  # it has just ended
        try:
            if self._running():  # so the number is still its own
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                async with readable(descriptor) as gone:
                    await asyncio.wait_for(gone.wait(), _ENDING)
        except (OSError, TimeoutError) as error:
            log.warning("the relay does not end: %s", error)
        finally:
            os.close(descriptor)
        self._collect()

    def _collect(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    async def _port(self) -> int:
        """Of the relay that is wished: of this release, and at the port that is set. Another one lets go for it."""
        wished, port = relayport.wished(), self._running()
        if port and (not wished or port == wished) and self._state().get("release") == modelworks.__version__:
            return port
        if port:
            log.info("the relay at port %d is of another release, or not where it is wished: it is replaced", port)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._state()["pid"]), signal.SIGHUP)
        return await self._start()

    def _running(self) -> int:
        """The port of a living relay, whoever started it, else 0."""
        self._collect()
        try:
            descriptor = os.open(self._home.relay_lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(OSError, KeyError):
                return int(self._state()["port"])
            return 0
        else:
            return 0
        finally:
            os.close(descriptor)

    async def _start(self) -> int:
        command = [sys.executable, "-P", "-m", "modelworks.main", "relay", "--home", str(self._home.root)]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/", start_new_session=True
        )
        assert child.stdout is not None
        self._child = child
        try:
            async with readable(child.stdout.fileno()) as told:
                await told.wait()
            line = child.stdout.readline()
        finally:
            child.stdout.close()
        said = json.loads(line) if line else {"problem": "it ended without a word"}
        if "port" not in said:
            raise OSError(str(said["problem"]))
        return int(said["port"])

    def _state(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._home.relay_state.read_text())
        return document
