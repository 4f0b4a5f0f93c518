"""Outputs of a run: uploaded while it works, and committed at its end by a manifest that is written last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.agent.checkpoints import CheckpointUploader, is_checkpoint
from modelworks.kernel.errors import Invalid, NotFound
from modelworks.kernel.run import Output
from modelworks.objectstore import transfer
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri

MANIFEST = ".manifest.json"
_SETTLED = 2.0  # seconds without a change
_PARALLEL = 4
_CHUNK = 1 << 20
Version = tuple[int, int]
"""Bytes of a file, and nanoseconds of its last change."""


@dataclass(frozen=True)
class Found:
    """A regular file below an output: its open descriptor is what is uploaded, whatever its name becomes meanwhile."""

    path: str
    descriptor: int
    size: int
    modified: int  # ns

    @property
    def version(self) -> Version:
        return (self.size, self.modified)


class OutputUploader:
    """One output of one run. Not for several threads at once, but for ``checkpoints``, which are sent on their own.

    They are None for an output that is committed: what is in it counts as a whole.
    """

    def __init__(
        self,
        directory: Path,
        output: Output,
        key: str,
        client: ObjectClient,
        may_commit: Callable[[], None] = lambda: None,
        lent: Callable[[], Mapping[str, Version]] = dict,
    ) -> None:
        """``lent``: the files that came from another run, as they came. Asked once there is something to send."""
        self.directory = directory
        self.output = output
        self.key = key
        self.client = client
        self._may_commit = may_commit
        self._ask_lent = lent
        self._lent: Mapping[str, Version] | None = None
        self._root = ObjectUri.parse(output.uri).folder
        self._done: dict[str, tuple[Version, str]] = {}  # path → version, SHA-256
        earlier = [ObjectUri.parse(uri) for uri in output.restore]
        self.checkpoints = (
            None if output.commit else CheckpointUploader(directory, self._root, earlier, client, may_commit)
        )

    def sync(self, closing: Callable[[], bool]) -> None:
        """Upload files that changed and have settled; stop early when the run is ``closing``."""
        now = time.time_ns()
        for found in walk(self.directory):
            with contextlib.closing(_Descriptor(found.descriptor)):
                if closing():
                    return
                if self._is_checkpoint(found):
                    continue
                if now - found.modified > _SETTLED * 1e9:
                    self._upload(found)

    def finish(self, commit: bool) -> dict[str, Any] | None:
        """Upload the rest; with ``commit`` write the manifest and return ``{uri, digest, size, files}``.

        May be repeated after an error: what arrived is not sent again. The workload has ended, so nothing changes.
        """
        present = set()
        with ThreadPoolExecutor(_PARALLEL) as pool:
            waiting = []
            for found in walk(self.directory, links=True):
                if self._is_checkpoint(found):
                    os.close(found.descriptor)
                    continue
                present.add(found.path)
                waiting.append(pool.submit(self._upload_closing, found))
                if len(waiting) >= 4 * _PARALLEL:  # bounds the open descriptors
                    waiting.pop(0).result()
            for future in waiting:
                future.result()
        for gone in set(self._done) - present:
            with contextlib.suppress(NotFound):
                self.client.delete(self._root / gone)
            del self._done[gone]
        return self._commit() if commit and self.output.commit else None

    def _commit(self) -> dict[str, Any]:
        files = [{"path": p, "size": v[0], "sha256": digest} for p, (v, digest) in sorted(self._done.items())]
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        size = sum(version[0] for version, _ in self._done.values())
        document = {"version": 1, "key": self.key, "attempt": self.key.split("/")[1], "digest": digest, "size": size}
        self._may_commit()
        self.client.put(self._root / MANIFEST, json.dumps(document | {"files": files}).encode())
        return {"uri": str(self._root), "digest": digest, "size": size, "files": len(files)}

    def _is_checkpoint(self, found: Found) -> bool:
        return self.checkpoints is not None and is_checkpoint(self.directory, found.path)

    def _upload_closing(self, found: Found) -> None:
        with contextlib.closing(_Descriptor(found.descriptor)):
            self._upload(found)

    def _upload(self, found: Found) -> None:
        if self._lent is None:
            self._lent = self._ask_lent()
        done = self._done.get(found.path)
        if found.version in (done and done[0], self._lent.get(found.path)):
            return
        digest = _sha256(found.descriptor)
        if not done or done[1] != digest:
            transfer.upload(self.client, Path(f"/proc/self/fd/{found.descriptor}"), self._root / found.path)
        # A file that grew while it was sent has another version now, and is sent again.
        self._done[found.path] = (found.version, digest)


class _Descriptor:
    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        os.close(self.number)


def walk(root: Path, links: bool = False) -> Iterator[Found]:
    """Regular files below ``root``, opened without following links: a workload must not make us read another's files.

    With ``links``, which is for when the workload has ended, links to files inside ``root`` count as these files.
    """
    real = os.path.realpath(root)
    if not os.path.isdir(real):
        return
    try:
        yield from _walk(real, links)
    except RecursionError:
        raise Invalid("an output's folders are nested too deeply") from None


def _walk(real: str, final: bool) -> Iterator[Found]:
    def refuse(error: OSError) -> None:
        if final:
            raise Invalid(f"the output {os.path.relpath(str(error.filename), real)} cannot be read: {error.strerror}")

    for folder, _, names, parent in os.fwalk(real, onerror=refuse, follow_symlinks=False):
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), real)
            if path == MANIFEST:
                continue
            if not _is_text(path):
                raise Invalid(f"an output's name is not UTF-8: {os.fsencode(path)!r}")
            try:
                descriptor = _open(parent, name)
            except PermissionError as error:
                refuse(error)
                continue
            if descriptor is None and final:
                target = os.path.realpath(os.path.join(folder, name))
                if target.startswith(f"{real}/"):
                    descriptor = _open(None, target)
            if descriptor is None:
                continue
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                yield Found(path, descriptor, status.st_size, status.st_mtime_ns)
            else:
                os.close(descriptor)


def _open(parent: int | None, name: str) -> int | None:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except PermissionError:
        raise
    except OSError:
        return None  # a link, or gone since it was listed


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sha256(descriptor: int) -> str:
    digest, offset = hashlib.sha256(), 0
    while data := os.pread(descriptor, _CHUNK, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()
