"""A node's agent as its door sees it: started once, found again, replaced when it is to be configured otherwise.

The agent is no child of the actor's: it goes on when the actor, its raylet or the whole of Ray is gone, and is then the
one who ends what has no lease any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import modelworks
from modelworks.home import Home
from modelworks.kernel.errors import Unavailable
from modelworks.runtime.ray import wire

_LOOK = 1.0  # seconds between looks at the agent
_START = 30.0  # seconds that it may take to start, or to end
_ANSWER = 5.0
_LARGEST_LOG = 16 << 20
_LAUNCH = '"$@" </dev/null >>"$MW_AGENT_LOG" 2>&1 &'  # the shell goes at once, and the agent is nobody's child
_DEFAULT_ROOT = "/var/lib/modelworks-agent"
log = logging.getLogger(__name__)


def default_home() -> Path:
    """``$MW_AGENT_HOME`` of the node, else a directory by who runs Ray there."""
    chosen = os.environ.get("MW_AGENT_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(_DEFAULT_ROOT) if os.geteuid() == 0 else Path.home() / ".modelworks-agent"


class AgentHost:
    """Use inside one event loop. ``problem`` says why there is no agent; ``agent`` is its process, or 0."""

    def __init__(self, name: str, home: str | None) -> None:
        own = os.environ.get("MW_AGENT_HOME") or not home
        self.home = Home(default_home() if own else Path(str(home)).expanduser().absolute())
        self.name = name
        self.agent = 0
        self.problem = "the agent is about to start"
        self._wanted: dict[str, str] | None = None
        self._lock: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._busy = asyncio.Lock()

    async def configure(self, configuration: dict[str, Any]) -> None:
        """``{env, credentials, client}``: variables of the agent, its keys of the store, the platform's address."""
        try:
            self._write(configuration)
        except OSError as error:
            self.problem = f"the home of the agent cannot be used: {error}; set MW_AGENT_HOME where Ray is started"
            return
        # What is set where Ray is started counts as well: an agent that outlived its raylet knows the former values.
        own = {name: value for name, value in sorted(os.environ.items()) if name.startswith("MW_")}
        known = json.dumps([modelworks.__version__, configuration["env"], own])
        digest = hashlib.sha256(known.encode()).hexdigest()[:16]
        self._wanted = {**configuration["env"], "MW_NODE_NAME": self.name, "MW_AGENT_CONFIGURATION": digest}
        await self._try()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def http(self, message: bytes) -> bytes:
        """Pass a request on to the agent. What it does not answer is a problem document."""
        try:
            if self._lock is None:
                raise ConnectionError(self.problem)
            return await wire.call(str(self.home.agent_socket), message)
        except OSError as error:
            self._woken.set()
            said = self.problem or f"it does not answer: {error}"
            return wire.problem(Unavailable(f"the agent of node {self.name}: {said}", retry_after=1.0))

    async def retire(self) -> None:
        """No agent any more; its runs live on."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        health = await self._health() if self._lock is not None else None
        if health is not None:
            await self._end(int(health["pid"]))
        self.agent, self.problem = 0, "the agent was stopped"

    # -- inside -----------------------------------------------------------------------------------------------------

    def _write(self, configuration: dict[str, Any]) -> None:
        home = self.home
        for folder, mode in ((home.root, 0o711), (home.secrets, 0o700), (home.agent, 0o700), (home.logs, 0o700)):
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
        home.run.mkdir(mode=0o711, parents=True, exist_ok=True)
        _replace(home.secrets / "agent.json", configuration["credentials"])
        _replace(home.client, configuration["client"])

    async def _keep(self) -> None:
        while True:
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _LOOK)
            await self._try()

    async def _try(self) -> None:
        async with self._busy:
            try:
                await self._ensure()
                self.problem = ""
            except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                self.agent, self.problem = 0, str(error) or repr(error)

    async def _ensure(self) -> None:
        """The agent answers, and is the wished one. Raises OSError when that cannot be."""
        assert self._wanted is not None
        if self._lock is None:
            self._lock = self._claim()
        health = await self._health()
        if health is not None and health.get("configuration") != self._wanted["MW_AGENT_CONFIGURATION"]:
            self.problem = "the agent is replaced by one of another configuration"
            await self._end(int(health["pid"]))
            health = None
        if health is None:
            health = await self._start()
        self.agent = int(health["pid"])

    def _claim(self) -> int:
        """One door a home: that of another Ray node on this machine would start an agent of its own beside ours."""
        descriptor = os.open(self.home.agent / "door.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(
                f"another Ray node of this machine has the home {self.home.root}: give each its own MW_AGENT_HOME and"
                " MW_NODE_NAME where it is started"
            ) from None
        return descriptor

    async def _health(self) -> dict[str, Any] | None:
        """What the agent says of itself; None when nobody listens. Raises OSError when it hangs."""
        try:
            found = await wire.call(str(self.home.agent_socket), wire.request("GET", "/healthz"), _ANSWER)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
            return None
        health: dict[str, Any] = json.loads(wire.split(found)[1])
        return health

    async def _start(self) -> dict[str, Any]:
        assert self._wanted is not None
        path = self.home.logs / "agent.log"
        if path.exists() and path.stat().st_size > _LARGEST_LOG:
            path.replace(path.with_suffix(".log.1"))
        # What Ray set for its own workers, its token above all, is nothing that the agent needs.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "__RAY"))}
        command = [sys.executable, "-P", "-m", "modelworks.main", "agent", "--home", str(self.home.root)]
        subprocess.run(
            ["/bin/sh", "-c", _LAUNCH, "sh", *command],
            env={**env, **self._wanted, "MW_AGENT_LOG": str(path)},
            cwd=self.home.root,
            umask=0o022,
            start_new_session=True,
            check=True,
        )
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            health = await self._health()
            if health is not None:
                return health
            await asyncio.sleep(0.02)
        lines = path.read_text(errors="replace").splitlines()[-5:]
        raise TimeoutError(f"the agent has not started within {_START:.0f} s; the end of {path}: {' | '.join(lines)}")

    async def _end(self, pid: int) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, gone.set)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(descriptor, number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(gone.wait(), _START / 2)
                    return
        except ProcessLookupError:
            return
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def _replace(path: Path, document: Any) -> None:
    """Write a private file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)
    temporary.replace(path)
