"""Ships a run's log to the object store, so that it outlives the node.

Objects are named by their start offset, ``<log_uri>/<offset, 16 digits>.log``, and cut at multiples of 4 MiB: the last
one is written again as it grows, and names and content never depend on when they were sent.
"""

from __future__ import annotations

import contextlib

from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.runtime.rundir import RunDirectory

CHUNK = 4 << 20
PERIOD = 5.0


class LogShipper:
    """One run's log. ``ship`` may be repeated, and goes on where it or an earlier agent was."""

    def __init__(self, directory: RunDirectory, uri: str, client: ObjectClient) -> None:
        self.directory = directory
        self.root = ObjectUri.parse(uri).folder
        self.client = client
        self._marker = directory.path / "shipped"
        self._shipped = 0
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._shipped = int(self._marker.read_text())

    def ship(self) -> None:
        """Send what is new. Raises Unavailable and the like; the next call sends it again."""
        size = self.directory.log_size()
        while self._shipped < size:
            start = self._shipped // CHUNK * CHUNK
            data = self.directory.read_log(start, CHUNK)
            self.client.put(self.root / f"{start:016d}.log", data)
            self._shipped = start + len(data)
            with contextlib.suppress(OSError):  # a full disk: an agent that comes after us sends it again
                self._marker.write_text(str(self._shipped))
