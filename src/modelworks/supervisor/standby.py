"""How a process that listens at the public socket tells that it drains: on a connection to its control socket."""

from __future__ import annotations

import contextlib
import socket
import struct

from modelworks.supervisor.ask import connect

_TIMEOUT = 0.5
_LINE, _SAID = b"stand-by\n", b"draining\n"
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class StandBy:
    """As long as it is open, the process knows that another one takes its place when it drains, and drains longer."""

    def __init__(self, control_socket: str, pid: int) -> None:
        """Raises OSError when it is not ``pid`` that listens there: its predecessor still does."""
        self._socket = connect(f"unix:{control_socket}", _TIMEOUT)
        try:
            found = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(found)[0] != pid:
                raise ConnectionRefusedError(f"{control_socket} is not the one of process {pid} yet")
            with contextlib.suppress(BrokenPipeError):  # it has closed at once: it will say nothing
                self._socket.sendall(_LINE)
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self._received = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drains(self) -> bool | None:
        """Read what has come: True when it drains, None when nothing is said yet, False when nothing will be."""
        try:
            part = self._socket.recv(64)
        except BlockingIOError:
            return None
        except OSError:
            return False
        self._received += part
        if not self._received.endswith(b"\n"):
            return None if part else False
        return self._received == _SAID
