"""The gateway's control socket, for the supervisor and the metrics' reader on this machine.

A line in, an answer out, closed: ``listen-fd`` (the listening descriptors by SCM_RIGHTS, with a line ``fds <count>``),
``status`` (JSON), ``metrics`` or ``GET /metrics …`` (Prometheus text; the second form with an HTTP head). After
``traffic`` the answer does not end: JSON lines of the services' traffic, for as long as the asking side stays.
After ``stand-by`` the asking side starts a successor when it reads ``draining``; as long as it stays, the gateway
takes its time to answer what it has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from modelworks.gateway.gateway import Gateway

_LONGEST_LINE = 1024
_METRICS_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n\r\n"


class ControlSocket:
    """Bound by rename, so that a starting gateway takes the path over from one that still drains."""

    def __init__(self, path: Path, gateway: Gateway, listening: Sequence[socket.socket]) -> None:
        self._path = path
        self._gateway = gateway
        self._listening = listening
        self._server: asyncio.Server | None = None
        self._inode = 0

    async def start(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        bound.bind(str(temporary))
        temporary.chmod(0o600)
        self._inode = temporary.stat().st_ino
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Conversation(self), sock=bound)
        temporary.replace(self._path)

    def stop(self) -> None:
        """Remove the path, unless another gateway has taken it over."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def answer(self, line: str, transport: asyncio.Transport) -> None:
        """Answer one line."""
        if line == "traffic":
            self._gateway.reports.follow(transport)
            return
        if line == "stand-by":
            self._gateway.stand_by(transport)
            return
        if line == "listen-fd":
            self._send_listening(transport)
        elif line == "status":
            transport.write(json.dumps({"pid": os.getpid(), **self._gateway.status()}).encode() + b"\n")
        elif line == "metrics":
            transport.write(self._gateway.metrics().encode())
        elif line.startswith("GET /metrics "):
            transport.write(_METRICS_HEAD + self._gateway.metrics().encode())
        else:
            transport.write(b"unknown: listen-fd, status, metrics, traffic or stand-by\n")
        transport.close()

    def gone(self, transport: asyncio.Transport) -> None:
        """Whoever asked has closed the connection."""
        self._gateway.reports.leave(transport)
        self._gateway.left_alone(transport)

    def _send_listening(self, transport: asyncio.Transport) -> None:
        descriptors = [s.fileno() for s in self._listening]
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as direct:
            socket.send_fds(direct, [b"fds %d\n" % len(descriptors)], descriptors)


class _Conversation(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, control: ControlSocket) -> None:
        self._control = control
        self._line = b""
        self._asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._asked:
            return  # one line is all there is to ask
        self._line += data
        line, newline, _ = self._line.partition(b"\n")
        if newline:
            self._asked = True
            self._control.answer(line.decode("utf-8", "replace").strip(), self.transport)
        elif len(self._line) > _LONGEST_LINE:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._control.gone(self.transport)
