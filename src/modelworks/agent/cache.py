"""Inputs on this node: directories keyed by content, downloaded once, dropped when space is short and nobody uses them.

::

    cache/<key>/data     the read-only directory that is mounted
    cache/<key>/size     bytes; its modification time is the last use
    cache/.new-*         half made; removed at start
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelworks.kernel.errors import NotFound, Unavailable
from modelworks.kernel.run import Input
from modelworks.objectstore import transfer
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.runtime.archive import unpack

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class Listing:
    """What an input's URI holds now. ``digest`` names its content."""

    uri: ObjectUri
    folder: bool
    size: int
    digest: str


class NoRoom(Exception):
    """The node's disk has not the bytes that an input needs."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{needed} bytes are needed, {free} are free")
        self.needed = needed
        self.free = free


class InputCache:
    """Safe to use from several threads; one agent uses one directory."""

    def __init__(self, root: Path, client: ObjectClient, bound: int) -> None:
        self.root = root
        self.client = client
        self.bound = bound
        self._holders: dict[str, set[str]] = {}
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for path in self.root.glob(".new-*"):
            shutil.rmtree(path, ignore_errors=True)

    def fetch(self, item: Input, holder: str, progress: Progress, spare: int = 0) -> tuple[str, Path]:
        """The key and directory of ``item``, held for ``holder`` until it is released.

        ``spare`` bytes stay free beside it. Raises NotFound naming the URI, Unavailable when the store cannot be
        reached, Invalid for a bad archive, and NoRoom when it does not fit on the disk.
        """
        listing = None if item.digest else self.list(item.uri)
        key = _key(item, item.digest or (listing.digest if listing else ""))
        self.hold(key, holder)
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            entry = self.root / key
            if not (entry / "size").exists():
                self._make(item, self._fitting(listing or self.list(item.uri), spare), entry, progress)
            os.utime(entry / "size")
        self.evict()
        return key, entry / "data"

    def path(self, key: str) -> Path:
        return self.root / key / "data"

    def hold(self, key: str, holder: str) -> None:
        with self._lock:
            self._holders.setdefault(key, set()).add(holder)

    def release(self, holder: str) -> None:
        with self._lock:
            for key in [key for key, holders in self._holders.items() if holder in holders]:
                self._holders[key].discard(holder)
                if not self._holders[key]:
                    del self._holders[key]

    def list(self, text: str) -> Listing:
        """One file if the URI is one, else everything below it. Raises NotFound when there is nothing."""
        uri = ObjectUri.parse(text)
        if not uri.is_folder:
            with contextlib.suppress(NotFound):
                info = self.client.head(uri)
                return Listing(uri, False, info.size, _digest([(uri.name, info.size, info.etag)]))
            uri = uri.folder
        infos = [
            (i.key.removeprefix(uri.key), i.size, i.etag) for i in self.client.list(uri) if not i.key.endswith("/")
        ]
        if not infos:
            raise NotFound(f"there is no object at {text}", remedy=f"upload the data, or correct the URI; see {uri}")
        return Listing(uri, True, sum(size for _, size, _ in infos), _digest(infos))

    def evict(self, bound: int | None = None) -> None:
        """Drop the longest unused entries until the bound is kept. What a run holds stays."""
        most = self.bound if bound is None else bound
        with self._lock:
            entries = self._entries()
            total = sum(size for _, size, _ in entries)
            for _, size, entry in sorted(entries):
                if total <= most:
                    break
                if entry.name not in self._holders:
                    gone = self.root / f".new-{uuid.uuid4().hex}"
                    entry.rename(gone)
                    shutil.rmtree(gone, ignore_errors=True)
                    total -= size

    def _entries(self) -> Sequence[tuple[float, int, Path]]:
        """Last use, bytes and directory of each."""
        entries = []
        for marker in self.root.glob("*/size"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                entries.append((marker.stat().st_mtime, int(marker.read_text()), marker.parent))
        return entries

    def _fitting(self, listing: Listing, spare: int) -> Listing:
        """What is to be downloaded, once there is room for it: entries that nobody uses make place."""
        if self._free() < listing.size + spare:
            self.evict(min(self.bound, max(0, self._total() + self._free() - listing.size - spare)))
        free = self._free()
        if free < listing.size + spare:
            raise NoRoom(listing.size, free)
        return listing

    def _free(self) -> int:
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def _total(self) -> int:
        return sum(size for _, size, _ in self._entries())

    def _make(self, item: Input, listing: Listing, entry: Path, progress: Progress) -> None:
        staged = self.root / f".new-{uuid.uuid4().hex}"
        data = staged / "data"
        data.mkdir(parents=True)
        done, lock = 0, threading.Lock()

        def count(delta: int) -> None:
            nonlocal done
            with lock:
                done += delta
                progress(done, listing.size)

        try:
            if listing.folder:
                transfer.download_tree(self.client, listing.uri, data, progress=count)
            else:
                file = data / listing.uri.name
                transfer.download(self.client, listing.uri, file, progress=count)
                if item.unpack:
                    unpack(file, staged / "unpacked", str(listing.uri))
                    shutil.rmtree(data)
                    (staged / "unpacked").rename(data)
            if not item.digest and self.list(item.uri).digest != listing.digest:
                # Half of it may be old and half new, and the key names the old.
                raise Unavailable(f"{item.uri} changed while it was read", retry_after=1.0)
            _make_readable(data)
            (staged / "size").write_text(str(_size(data)))
            staged.rename(entry)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _key(item: Input, digest: str) -> str:
    text = json.dumps([digest, item.uri.endswith("/"), item.unpack])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _digest(infos: Iterable[tuple[str, int, str | None]]) -> str:
    return hashlib.sha256(json.dumps(sorted(infos)).encode()).hexdigest()


def _make_readable(root: Path) -> None:
    """Runs have users of their own: everything is readable, and nothing writable by them."""
    for folder, _, files in os.walk(root):
        os.chmod(folder, 0o755)
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)


def _size(root: Path) -> int:
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, files in os.walk(root) for name in files)
