"""Captured requests: lines from the gateways, gathered into objects of their services' buckets.

An object holds JSON lines and is written whole: ``<uri><service>/2026/03/09/140502-<random>.jsonl``, by the time (UTC)
at which its first line came. A sample may be lost, a request never waits for one: what does not fit is dropped and
counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelworks.courier.control import bind, unbind
from modelworks.home import Home

_LONGEST_LINE = 16 * 1024 * 1024
_MOST_BYTES = 4 * 1024 * 1024  # of one object
_LONGEST = 10.0  # seconds that a line waits for others
_MOST_WAITING = 48 * 1024 * 1024
_DEADLINE = 5.0  # of one attempt to write, in seconds
_PAUSE = 2.0
log = logging.getLogger("modelworks.courier.capture")

Put = Callable[[str, str, bytes], None]
"""Write an object: its folder's URI, its key below that, its bytes."""


class Refused(Exception):
    """The object cannot be written now or later: there is no such bucket, or it is not ours."""


@dataclass
class _Sheet:
    """Lines of one service that become one object. ``since`` is the loop's time, ``at`` the clock's."""

    since: float
    at: datetime
    lines: list[bytes] = field(default_factory=list)
    size: int = 0


class Captures:
    """``put`` is called in a thread; Refused ends what it was called with, any other OSError is tried again."""

    def __init__(self, path: Path, put: Put) -> None:
        self._path, self._put = path, put
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._open: dict[tuple[str, str], _Sheet] = {}
        self._full: list[tuple[str, str, bytes]] = []  # folder, key, content
        self._waiting = 0
        self._wake = asyncio.Event()
        self._complaint = ""
        self.kept = self.dropped = 0

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return self._waiting

    async def start(self) -> None:
        bound, self._inode = bind(self._path, 64)
        self._server = await asyncio.start_unix_server(self._serve, sock=bound, limit=_LONGEST_LINE)

    async def stop(self) -> None:
        """Take no more, and write what is there, as far as a moment allows."""
        if self._server is not None:
            self._server.close()
        unbind(self._path, self._inode)
        for key in list(self._open):
            self._close(key)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                while self._full:
                    await self._write()

    async def run(self) -> None:
        """Write what is full or old, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0 if self._open or self._full else None):
                    await self._wake.wait()
            self._wake.clear()
            now = asyncio.get_running_loop().time()
            for key in [key for key, sheet in self._open.items() if now - sheet.since >= _LONGEST]:
                self._close(key)
            while self._full:
                if not await self._write():
                    await asyncio.sleep(_PAUSE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self._take(line)
        except (ConnectionError, ValueError):
            self.dropped += 1  # a line longer than any may be
        finally:
            writer.close()

    def _take(self, line: bytes) -> None:
        try:
            document = json.loads(line)
            key = str(document["uri"]), str(document["service"])
        except (ValueError, KeyError, TypeError):
            self.dropped += 1
            return
        if self._waiting + len(line) > _MOST_WAITING:
            self.dropped += 1
            return
        sheet = self._open.get(key)
        if sheet is None:
            sheet = self._open[key] = _Sheet(asyncio.get_running_loop().time(), datetime.now(UTC))
            self._wake.set()
        sheet.lines.append(line)
        sheet.size += len(line)
        self._waiting += len(line)
        if sheet.size >= _MOST_BYTES:
            self._close(key)
            self._wake.set()

    def _close(self, key: tuple[str, str]) -> None:
        sheet = self._open.pop(key)
        name = f"{key[1]}/{sheet.at:%Y/%m/%d/%H%M%S}-{secrets.token_hex(4)}.jsonl"
        self._full.append((key[0], name, b"".join(sheet.lines)))

    async def _write(self) -> bool:
        """The first of what is full; False when it has to be tried again."""
        folder, name, content = self._full[0]
        lines = content.count(b"\n")
        try:
            await asyncio.to_thread(self._put, folder, name, content)
            self.kept += lines
            self._complaint = ""
        except Refused as error:
            self.dropped += lines
            self._complain(f"captured requests are dropped: {error}")
        except OSError as error:
            self._complain(f"captured requests wait: {error}")
            return False
        self._full.pop(0)
        self._waiting -= len(content)
        return True

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.warning("%s", complaint)
            self._complaint = complaint


def to_store(home: Home) -> Put:
    """Writes with the platform's own credentials. What that needs is loaded with the first object: few have one."""
    client: Any = None

    def put(folder: str, name: str, content: bytes) -> None:
        nonlocal client
        errors = importlib.import_module("modelworks.kernel.errors")
        uri = importlib.import_module("modelworks.objectstore.uri")
        try:
            if client is None:
                credentials = importlib.import_module("modelworks.objectstore.credentials").Credentials
                load = importlib.import_module("modelworks.objectstore.client").ObjectClient
                client = load(lambda: credentials.load(home.secrets / "s3.json"), deadline=_DEADLINE)
            root = uri.ObjectUri.parse(folder.rstrip("/") + "/" + name)
            client.put(root, content)
        except errors.Unavailable as error:
            raise ConnectionError(str(error)) from error
        except (errors.ModelworksError, ValueError) as error:
            raise Refused(str(error)) from error

    return put
