"""Keep-alive connections to one replica."""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Protocol

from modelworks import relay
from modelworks.gateway.known import Memory, WholeAnswer
from modelworks.gateway.limits import Limits
from modelworks.gateway.table import parse_address
from modelworks.gateway.upstream import UpstreamConnection
from modelworks.replicasocket import unredirected

log = logging.getLogger("modelworks.gateway.pool")


class Caller(Protocol):
    """Who asked for a connection: exactly one of the two is called, later."""

    def connected(self, connection: UpstreamConnection) -> None: ...
    def connect_failed(self, error: OSError) -> None: ...


class Pool:
    """Idle connections to one address, the latest used first. How many there are is bounded by the replica's limit."""

    __slots__ = (
        "_complained", "_connecting", "_idle", "_limits", "_loop", "_memory", "_ours", "_preface", "_target",
        "address", "closed",
    )  # fmt: skip

    def __init__(
        self,
        address: str,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        ours: bytes,
        preface: Callable[[], bytes] | None = None,
    ) -> None:
        """``ours``: our own headers in the answers to those who did not queue. ``preface`` opens the way through a
        relay."""
        self._preface = preface
        self._complained = False
        self.address = address
        self.closed = False
        self._target = parse_address(address)
        self._ours = ours
        self._memory: Memory[WholeAnswer] = Memory()
        self._loop = loop
        self._limits = limits
        self._idle: list[tuple[UpstreamConnection, float]] = []
        self._connecting: set[asyncio.Task[None]] = set()

    def take(self, now: float) -> UpstreamConnection | None:
        """An idle connection that looks alive."""
        while self._idle:
            connection, since = self._idle.pop()
            if connection.lost:
                continue
            # The loop tells of an end-of-file only in its next round; one that was put back a moment ago is good.
            if now - since > self._limits.upstream_trusted and _readable(connection.fileno()):
                connection.close()
                continue
            connection.reused = True
            return connection
        return None

    def connect(self, caller: Caller) -> None:
        """Open a new connection for ``caller``."""
        task = self._loop.create_task(self._connect(caller))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def put(self, connection: UpstreamConnection, now: float) -> None:
        """Take a connection back whose answer is complete."""
        if self.closed:
            connection.close()
        else:
            self._idle.append((connection, now))

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long."""
        oldest = now - self._limits.upstream_idle
        while self._idle and self._idle[0][1] < oldest:
            self._idle.pop(0)[0].close()

    def close(self) -> None:
        """Close the idle ones now, and each other when it is put back."""
        self.closed = True
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()

    def _new(self) -> UpstreamConnection:
        return UpstreamConnection(self._memory, self._ours)

    async def _connect(self, caller: Caller) -> None:
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                if isinstance(self._target, str):
                    with unredirected(self._target) as path:
                        _, connection = await self._loop.create_unix_connection(self._new, path)
                elif self._preface is not None:
                    through = await relay.connect(self._target, self._preface())
                    _, connection = await self._loop.create_connection(self._new, sock=through)
                else:
                    _, connection = await self._loop.create_connection(self._new, *self._target)
        except OSError as error:  # TimeoutError is one
            if self._preface is not None and not self._complained:
                self._complained = True
                log.warning("the relay at %s: %s", self.address, str(error) or "no answer")
            caller.connect_failed(error)
        else:
            self._complained = False
            caller.connected(connection)


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
