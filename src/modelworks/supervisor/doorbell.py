"""The socket of a process that is started when somebody connects to it."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

_BACKLOG = 256


class Doorbell:
    """Listens at ``path``. Whoever inherits the descriptor accepts; connections wait in it while nobody does."""

    def __init__(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._socket.bind(path)
        finally:
            os.umask(before)
        self._socket.listen(_BACKLOG)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def turn_away(self) -> None:
        """Close every connection that waits."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()
