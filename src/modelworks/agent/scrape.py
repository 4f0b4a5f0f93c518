"""Asks a ready replica for its engine's metrics now and then, without being a burden to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from modelworks.agent.gauges import Scrape, values
from modelworks.replicasocket import unredirected

PERIOD = 5.0  # seconds
_TIMEOUT = 2.0
_MOST = 1 << 20  # bytes of an answer
_FAILURES, _SELDOM = 3, 60.0  # who does not answer so often is asked once a minute
log = logging.getLogger(__name__)


class EngineMetrics:
    """The last values of one replica, see :data:`modelworks.agent.gauges.NAMES`; empty while it does not say them."""

    def __init__(self, socket: Path, ready: Callable[[], bool]) -> None:
        self.values: dict[str, float] = {}
        self._socket = socket
        self._ready = ready
        self._before: Scrape | None = None

    async def watch(self, path: str) -> None:
        """Ask at ``path`` until cancelled. A replica that is not ready is busy with something else."""
        failures = 0
        while True:
            await asyncio.sleep(PERIOD if failures < _FAILURES else _SELDOM)
            if not self._ready():
                self._forget()
                continue
            try:
                text = await self._ask(path)
            except (OSError, TimeoutError, ValueError) as error:
                failures += 1
                self._forget()
                log.debug("metrics at %s: %s", self._socket, error)
            else:
                failures = 0
                now = Scrape.of(text, time.monotonic())
                self.values, self._before = values(now, self._before), now

    def _forget(self) -> None:
        """What it said before is no longer so."""
        self.values, self._before = {}, None

    async def _ask(self, path: str) -> str:
        """Raises OSError, TimeoutError, and ValueError for an answer that is none."""
        async with asyncio.timeout(_TIMEOUT):
            with unredirected(str(self._socket)) as own:
                reader, writer = await asyncio.open_unix_connection(own)
            try:
                # Of HTTP/1.0, so that the answer is in one piece and ends with the connection.
                writer.write(f"GET {path} HTTP/1.0\r\nHost: replica\r\nAccept: text/plain\r\n\r\n".encode())
                await writer.drain()
                answer = bytearray()
                while part := await reader.read(1 << 16):
                    answer += part
                    if len(answer) > _MOST:
                        raise ValueError(f"more than {_MOST} bytes")
            finally:
                writer.transport.abort()
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            raise ValueError(f"answered {head[:40]!r}")
        return body.decode("utf-8", "replace")
