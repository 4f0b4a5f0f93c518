"""Whether a replica answers its health check: asked for as long as it lives, and remembered for the next agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from modelworks.agent.probe import NotReady, ask
from modelworks.kernel.run import Listen, RunReason, Transport
from modelworks.runtime.rundir import RunDirectory

_STARTING_PERIOD = 0.1  # seconds between probes before a replica is ready


class Readiness:
    """The health of one running replica. ``note`` tells of a change, ``give_up`` stops a replica that never came up."""

    def __init__(
        self,
        directory: RunDirectory,
        listen: Listen,
        socket: Path,
        *,
        began: float,
        note: Callable[..., None],
        give_up: Callable[[str], Awaitable[Any]],
    ) -> None:
        self.ready = bool((directory.read("state.json") or {}).get("ready"))
        self._directory = directory
        self._listen = listen
        self._socket = socket
        self._began = began
        self._note = note
        self._give_up = give_up

    async def watch(self) -> None:
        """Ask until cancelled, or until the replica was given up."""
        listen = self._listen
        bad, was_ready = 0, self.ready
        while True:
            try:
                # Only the platform's own server has something to say.
                own = listen.transport is Transport.UNIX
                note = await ask(self._socket, listen.path, listen.timeout, noted=own, any_status=listen.any_status)
            except NotReady as problem:
                bad += 1
                if was_ready and bad >= listen.failures:
                    self._set(False, RunReason.UNHEALTHY, f"not healthy: {problem}")
                elif not was_ready:
                    self._note(message=f"starting: {problem}")
                    if time.time() - self._began > listen.startup:
                        await self._give_up(f"it was not ready within {listen.startup:g} s: {problem}")
                        return
            else:
                bad, was_ready = 0, True
                self._set(True, RunReason.NONE, note)
            await asyncio.sleep(listen.period if was_ready else min(_STARTING_PERIOD, listen.period))

    def _set(self, ready: bool, reason: RunReason, message: str) -> None:
        if ready != self.ready:
            state = self._directory.read("state.json") or {}
            self._directory.write("state.json", {**state, "ready": ready})
            self.ready = ready
        self._note(ready=ready, reason=reason, message=message)
