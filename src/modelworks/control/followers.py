"""The connections to who reports traffic: one thread each, and one that looks for sockets that come and go."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path

from modelworks.control.traffic import TrafficStore
from modelworks.home import Home
from modelworks.kernel.traffic import PATIENCE

_log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks for sockets
_SETTLED = 1e9  # nanoseconds: a folder that changed only just now may change again without a later time stamp
_CONNECT = 2.0
_LONGEST_LINE = 64 * 1024 * 1024


class Followers(threading.Thread):
    """Follows every gateway and the courier for as long as they live.

    A door is a path together with its inode: a gateway that takes over from one that still drains has another one, and
    both are heard until the old one has answered what it had begun.
    """

    def __init__(self, home: Home, store: TrafficStore) -> None:
        super().__init__(name="traffic", daemon=True)
        self._run = home.run
        self._store = store
        self._stopping = threading.Event()
        self._live: dict[Hashable, _Follower] = {}
        self._silent: set[Hashable] = set()  # doors of who does not know what traffic is
        self._changed = 0  # when the folder of the sockets had changed last, as they were looked for
        self._found: dict[Hashable, Path] = {}

    def stop(self) -> None:
        self._stopping.set()
        for follower in list(self._live.values()):
            follower.stop()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception:
                _log.exception("traffic.look_failed")
            self._stopping.wait(_LOOK)

    def _look(self) -> None:
        found = self._doors()
        self._live = {door: follower for door, follower in self._live.items() if follower.is_alive()}
        self._silent &= found.keys()
        for door, path in found.items():
            if door not in self._live and door not in self._silent:
                follower = self._live[door] = _Follower(path, door, self._store, self._stopping, self._silent.add)
                follower.start()
        self._store.expect((found.keys() - self._silent) | self._live.keys())

    def _doors(self) -> dict[Hashable, Path]:
        """Read again only when the folder has changed: that is a quarter of what an idle controller does."""
        now = time.time_ns()
        changed = self._run.stat().st_mtime_ns
        if changed != self._changed or now - changed < _SETTLED:
            self._changed, self._found = changed, {}
            for path in (*sorted(self._run.glob("gateway*.sock")), self._run / "courier-control.sock"):
                with contextlib.suppress(OSError):
                    self._found[path.name, path.stat().st_ino] = path
        return self._found


class _Follower(threading.Thread):
    """One connection. It ends with the process behind it; while that does not answer, it tries again."""

    def __init__(
        self,
        path: Path,
        door: Hashable,
        store: TrafficStore,
        stopping: threading.Event,
        silent: Callable[[Hashable], None],
    ) -> None:
        super().__init__(name=f"traffic {path.name}", daemon=True)
        self._path = path
        self._door = door
        self._store = store
        self._stopping = stopping
        self._silent = silent
        self._socket: socket.socket | None = None

    def stop(self) -> None:
        open_socket = self._socket
        if open_socket is not None:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            self._follow()
        except (OSError, EOFError) as error:
            if not self._stopping.is_set():
                _log.info("traffic.source_ended", extra={"socket": self._path.name, "reason": str(error)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Not what it should be: an older gateway, or a newer one. It is not asked again.
            _log.warning("traffic.not_understood", extra={"socket": self._path.name, "error": str(error)})
            self._silent(self._door)

    def _follow(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
            connected.settimeout(_CONNECT)
            connected.connect(str(self._path))
            connected.sendall(b"traffic\n")
            # Reports come each second: who is silent for longer does not work, and is connected to anew.
            connected.settimeout(PATIENCE)
            self._socket = connected
            self._store.begin(self._door)
            with connected.makefile("rb") as lines:
                while not self._stopping.is_set():
                    line = lines.readline(_LONGEST_LINE)
                    if not line.endswith(b"\n"):
                        raise EOFError("it closed the connection")
                    self._store.hear(self._door, json.loads(line))
