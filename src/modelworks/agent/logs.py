"""Ships a run's log, and what it reported, to the object store, so that they outlive the node.

Objects are named by their start offset, ``<log_uri>/<offset, 16 digits>.<part>``, and cut at multiples of 4 MiB (of the
log) or 256 KiB: the last one is written again as it grows, and names and content never depend on when they were sent.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.runtime.rundir import RunDirectory

CHUNKS = {"log": 4 << 20, "reports": 256 << 10, "times": 256 << 10}
PERIOD = 5.0
REPORTS_PERIOD = 15.0  # each time sends a chunk anew, that a script which reports every step fills in minutes
SAMPLES_PERIOD = 60.0


class LogShipper:
    """A part of one run's log: ``log``, ``reports``, ``times``. ``ship`` may be repeated, and goes on where it or an
    earlier agent was."""

    def __init__(self, directory: RunDirectory, uri: str, client: ObjectClient, part: str = "log") -> None:
        self.directory = directory
        self.root = ObjectUri.parse(uri).folder
        self.client = client
        self.part = part
        self._chunk = CHUNKS[part]
        self._marker = directory.path / ("shipped" if part == "log" else f"shipped.{part}")
        self._period = REPORTS_PERIOD if part == "reports" else 0.0
        self._sent_at = time.monotonic() - self._period
        self._shipped = 0
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._shipped = int(self._marker.read_text())

    def ship(self, *, now: bool = False) -> None:
        """Send what is new; reports only when the last were sent a while ago, or ``now``.

        Raises Unavailable and the like; the next call sends it again.
        """
        if not now and time.monotonic() - self._sent_at < self._period:
            return
        while True:
            start = self._shipped // self._chunk * self._chunk
            if not self.directory.read_part(self.part, self._shipped, 1):
                return
            data = self.directory.read_part(self.part, start, self._chunk)
            self.client.put(self.root / f"{start:016d}.{self.part}", data)
            self._shipped = start + len(data)
            self._sent_at = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk: an agent that comes after us sends it again
                self._marker.write_text(str(self._shipped))


class SampleShipper:
    """The samples of what one run uses, whole and once a minute: the file that they are in is cut from time to time."""

    def __init__(self, source: Path, uri: str, client: ObjectClient) -> None:
        self._source = source
        self._target = ObjectUri.parse(uri).folder / "samples.jsonl"
        self._client = client
        self._sent_at = time.monotonic()

    def ship(self, *, now: bool = False) -> None:
        """Raises Unavailable and the like; the next call sends it again."""
        if (not now and time.monotonic() - self._sent_at < SAMPLES_PERIOD) or not self._source.exists():
            return
        self._client.put(self._target, self._source.read_bytes())
        self._sent_at = time.monotonic()
