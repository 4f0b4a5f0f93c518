"""The courier's control socket: a line in, an answer out.

``status`` (JSON), ``metrics`` or ``GET /metrics …`` (Prometheus text), ``traffic`` (JSON lines, until the reader goes).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LONGEST_LINE = 1024
_METRICS_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n\r\n"


def bind(path: Path, backlog: int = 512) -> tuple[socket.socket, int]:
    """A listening socket at ``path`` and its inode. Bound by rename: who starts takes the path over from who drains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    bound.bind(str(temporary))
    temporary.chmod(0o600)
    bound.listen(backlog)
    bound.setblocking(False)
    inode = temporary.stat().st_ino
    temporary.replace(path)
    return bound, inode


def unbind(path: Path, inode: int) -> None:
    """Remove the path, unless it is another's by now."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


class Control:
    """``report`` answers the services' numbers by uid; ``urgent`` is set when a reader should hear of them at once."""

    def __init__(
        self,
        path: Path,
        source: str,
        metrics: Callable[[], str],
        status: Callable[[], dict[str, Any]],
        report: Callable[[], dict[str, Any]],
    ) -> None:
        self._path, self._source = path, source
        self._metrics, self._status, self._report = metrics, status, report
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._readers: set[asyncio.Event] = set()

    async def start(self) -> None:
        bound, self._inode = bind(self._path, 16)
        self._server = await asyncio.start_unix_server(self._serve, sock=bound)

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        unbind(self._path, self._inode)

    def urgent(self) -> None:
        for event in self._readers:
            event.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, ValueError, asyncio.IncompleteReadError):
                line = (await reader.readuntil(b"\n"))[:_LONGEST_LINE].decode("utf-8", "replace").strip()
                if line == "traffic":
                    await self._tell(reader, writer)
                elif line == "status":
                    writer.write(json.dumps({"pid": os.getpid(), **self._status()}).encode() + b"\n")
                elif line == "metrics":
                    writer.write(self._metrics().encode())
                elif line.startswith("GET /metrics "):
                    writer.write(_METRICS_HEAD + self._metrics().encode())
                else:
                    writer.write(b"unknown: status, metrics or traffic\n")
                await writer.drain()
        finally:
            writer.close()

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The report of "Traffic reports" in docs/architecture.md, a line a second."""
        event = asyncio.Event()
        self._readers.add(event)
        gone = asyncio.create_task(reader.read())
        gone.add_done_callback(lambda _: event.set())
        told: dict[str, Any] = {}
        try:
            while not gone.done():
                event.clear()
                now = self._report()
                changed = {uid: document for uid, document in now.items() if told.get(uid) != document}
                line = {"source": self._source, "at": round(time.time(), 3), "services": changed}
                if former := told.keys() - now.keys():
                    line["gone"] = sorted(former)
                told = now
                writer.write(json.dumps(line).encode() + b"\n")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await event.wait()
        finally:
            self._readers.discard(event)
            gone.cancel()
