"""One checkpoint between memory and disk: written whole or not at all, and read without running anything of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.train import tree
from modelworks.train.layout import (
    BLOBS,
    CONTENTS,
    MANIFEST,
    Sight,
    Torn,
    file_digest,
    is_temporary,
    manifest_bytes,
    read_sight,
)


@dataclass(frozen=True)
class Snapshot:
    """A state that nobody changes any more: its structure, and what ``tree`` put apart."""

    structure: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Any]]
    blobs: Sequence[bytes]


class HostBuffers:
    """Memory of this process into which tensors are copied, the same again each time.

    New memory costs more than the copy: the kernel hands out and clears each page of it.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}

    def copy(self, tensors: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """The same names with copies. Two names of one tensor (tied weights) share one copy."""
        used: dict[tuple[str, str], Any] = {}
        seen: dict[Any, Any] = {}
        waiting = set()
        for name, paths in tensors.items():
            for path, tensor in paths.items():
                identity = _identity(tensor)
                copied = seen.get(identity) if identity else None
                if copied is None:
                    copied = _into(self._known.get((name, path)), tensor)
                    waiting.add(tensor.device)
                if identity:
                    seen[identity] = copied
                used[name, path] = copied
        for device in waiting:
            if device.type == "cuda":
                sys.modules["torch"].cuda.synchronize(device)
        self._known = used
        return {name: {path: used[name, path] for path in paths} for name, paths in tensors.items()}


def _identity(tensor: Any) -> Any:
    if tensor.is_sparse or tensor.numel() == 0 or not tensor.data_ptr():
        return None
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())


def _into(buffer: Any, tensor: Any) -> Any:
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_quantized:
        return tensor.cpu().clone()
    if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
        buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    buffer.copy_(tensor, non_blocking=True)
    return buffer


def write(root: Path, sight: Sight, snapshot: Snapshot) -> Path:
    """The checkpoint's directory, which appears with all its files on the disk. Raises OSError."""
    temporary = begin(root, sight)
    try:
        files: dict[str, tuple[int, str]] = {}

        def add(name: str, fill: Callable[[_Hashed], None]) -> None:
            files[name] = _write_file(temporary / name, fill)

        for name, tensors in snapshot.tensors.items():
            add(f"{name}.pt", lambda file, tensors=tensors: sys.modules["torch"].save(dict(tensors), file))  # type: ignore[misc]
        if snapshot.blobs:
            add(BLOBS, lambda file: file.write_all(snapshot.blobs))
        add(CONTENTS, lambda file: file.write_all([json.dumps(snapshot.structure).encode()]))
        return _finish(temporary, root, sight, files)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def begin(root: Path, sight: Sight) -> Path:
    """A directory in which the checkpoint can be written; its name says that it is not whole."""
    target = root / sight.place.name
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{sight.rank}.{secrets.token_hex(4)}")
    temporary.mkdir()
    return temporary


def link(source: Path, temporary: Path) -> None:
    """The files of ``source`` in a directory of ``begin`` too, without a copy where that can be. Raises Torn."""
    for entry in os.scandir(source):
        if not entry.is_file():
            raise Torn(f"{entry.path} is a folder: checkpoints in several parts are not kept by this callback")
        try:
            os.link(entry.path, temporary / entry.name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(entry.path, temporary / entry.name)


def adopt(temporary: Path, root: Path, sight: Sight, kind: str) -> Path:
    """Make a whole checkpoint of files that somebody else wrote; ``kind`` says who. Raises OSError."""
    try:
        found: dict[str, tuple[int, str]] = {}
        for name in sorted(os.listdir(temporary)):
            with (temporary / name).open("rb") as file:
                os.fsync(file.fileno())
                found[name] = (os.fstat(file.fileno()).st_size, file_digest(temporary / name))
        contents = json.dumps({"kind": kind}).encode()
        found[CONTENTS] = _write_file(temporary / CONTENTS, lambda file: file.write_all([contents]))
        return _finish(temporary, root, sight, found)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _finish(temporary: Path, root: Path, sight: Sight, files: Mapping[str, tuple[int, str]]) -> Path:
    target = root / sight.place.name
    _write_file(temporary / MANIFEST, lambda file: file.write_all([manifest_bytes(sight, files)]))
    sync_directory(temporary)
    _publish(temporary, target, sight)
    return target


def _publish(temporary: Path, target: Path, sight: Sight) -> None:
    if target.exists():
        if sight.shared and sight.rank != 0 and _line(target) == sight.line:
            shutil.rmtree(temporary)  # another node's process has written the same into a folder that they share
            return
        remove(target)
    os.rename(temporary, target)
    sync_directory(target.parent)


def _line(directory: Path) -> str | None:
    try:
        return read_sight(directory).line
    except Torn:
        return None


def remove(directory: Path) -> None:
    """Delete a checkpoint: it is gone at once, however long its files take."""
    gone = directory.with_name(f".{directory.name}.gone.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(directory, gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_unfinished(folder: Path, rank: int) -> None:
    """Delete what a crash of the same rank left half written, or half deleted."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            if is_temporary(entry.name) and entry.name.split(".")[2] in (str(rank), "gone"):
                shutil.rmtree(entry.path, ignore_errors=True)


def read(directory: Path) -> dict[str, Any]:
    """The states of a checkpoint by name, tensors on the CPU. Raises Torn."""
    loaded: dict[str, Any] = {}

    def tensor(name: str, path: str) -> Any:
        if name not in loaded:
            import torch  # noqa: PLC0415 - only checkpoints with tensors need it

            loaded[name] = torch.load(directory / f"{name}.pt", map_location="cpu", weights_only=True)
        return loaded[name][path]

    def blob(offset: int, size: int) -> bytes:
        with (directory / BLOBS).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    try:
        structure = json.loads((directory / CONTENTS).read_bytes())
        return {name: tree.decode(value, tensor, blob) for name, value in structure.items()}
    except (ValueError, KeyError, AttributeError, OSError, RecursionError) as error:
        raise Torn(f"{directory.name} cannot be read: {error}") from error


def sync_directory(path: Path) -> None:
    """Make the names inside ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Hashed:
    """A file that is hashed while it is written; all that ``torch.save`` asks of one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        written = memoryview(data).nbytes
        self._file.write(data)
        self._digest.update(data)
        self.size += written
        return written

    def write_all(self, pieces: Iterable[bytes]) -> None:
        for data in pieces:
            self.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def _write_file(path: Path, fill: Callable[[_Hashed], None]) -> tuple[int, str]:
    """Size and digest of what ``fill`` wrote, on the disk."""
    with path.open("xb") as file:
        hashed = _Hashed(file)
        fill(hashed)
        file.flush()
        os.fsync(file.fileno())
    return hashed.size, hashed.digest
