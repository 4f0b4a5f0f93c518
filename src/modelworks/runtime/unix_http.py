"""HTTP/1.1 over a Unix socket, for calls to a process of this machine: kept connections, bodies with a length.

A general client takes several times the CPU time, which the controller, that asks of every change of every run, would
spend mostly there.
"""

from __future__ import annotations

import http.client
import select
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import orjson


class NoAnswer(Exception):
    """Nobody listens, the connection was cut, or time was up. Whether the call was carried out is not known."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


class UnixHttp:
    """Safe to use from several threads; each call has a connection of its own meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Calls that are under way end as they would have."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        timeout: float,
        params: Mapping[str, object] | None = None,
        json: object = None,
    ) -> Answer:
        """``timeout`` is in seconds, for each wait. Raises :class:`NoAnswer`."""
        target = f"{path}?{urlencode(params)}" if params else path
        body = None if json is None else orjson.dumps(json)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection = self._take()
        try:
            connection.set_timeout(timeout)
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NoAnswer(f"{error}" or type(error).__name__) from error
        except BaseException:
            connection.close()
            raise
        self._put_back(connection)
        return answer

    def _take(self) -> _Connection:
        """One that is kept, or a new one. An agent that ended has closed those that it had."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return _Connection(self._path)
            if connection.usable():
                return connection
            connection.close()

    def _put_back(self, connection: _Connection) -> None:
        with self._lock:
            kept = connection.sock is not None and not self._closed
            if kept:
                self._idle.append(connection)
        if not kept:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise

    def set_timeout(self, seconds: float) -> None:
        self.timeout = seconds
        if self.sock is not None:
            self.sock.settimeout(seconds)

    def usable(self) -> bool:
        """Nothing is to be read between calls but the end."""
        if self.sock is None:
            return False
        waiting = select.poll()
        waiting.register(self.sock, select.POLLIN)
        return not waiting.poll(0)
