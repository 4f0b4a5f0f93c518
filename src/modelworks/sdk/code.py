"""A folder of source becomes one archive named by its content, so that the same code is uploaded once.

The archive depends on names, contents and the executable bit alone: not on times, owners or the order on disk.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.quantities import format_bytes
from modelworks.objectstore import transfer
from modelworks.sdk import ignore
from modelworks.sdk.client import Client
from modelworks.sdk.objects import open_store, parse_uri, workspace_bucket

LIMIT = 500 * 1000**2


@dataclass(frozen=True)
class Archive:
    """A packed folder at ``path``; ``digest`` is its SHA-256, ``size`` in bytes, ``files`` how many it holds."""

    path: Path
    digest: str
    size: int
    files: int


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a source folder as (relative path with ``/``, path), sorted, without what is ignored."""
    yield from _walk(folder, "", ignore.parse(ignore.ALWAYS))


def pack(folder: Path, target: Path) -> Archive:
    """Pack a folder, or one file, into ``target``. Raises Invalid when it is missing, empty, or larger than 500 MB."""
    found = _files(folder)
    total = sum(path.stat().st_size for _, path in found)
    if total > LIMIT:
        largest = max(found, key=lambda item: item[1].stat().st_size)[0]
        raise Invalid(
            f"{folder} holds {format_bytes(total)} of code, more than {format_bytes(LIMIT)}; the largest is {largest}",
            fields=(FieldError("spec.code", "too large"),),
            remedy="list what is not code in .mwignore, and give data to the job as an input (`mw bucket upload`)",
        )
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, path in found:
            _add(tar, name, path)
    with target.open("rb") as packed:
        digest = hashlib.file_digest(packed, "sha256").hexdigest()
    return Archive(target, digest, target.stat().st_size, len(found))


def upload(client: Client, folder: Path, progress: Callable[[int], None] | None = None, *, send: bool = True) -> str:
    """Pack a folder and put it into the workspace's bucket unless it is there: its ``s3://…tar.gz``.

    ``send`` False only says what it would be called.
    """
    with TemporaryDirectory(prefix="mw-code-") as directory:
        archive = pack(folder, Path(directory) / "code.tar.gz")
        prefix = f"s3://{workspace_bucket(client.workspace)}/code/"
        uri = parse_uri(f"{prefix}{archive.digest}.tar.gz")
        if send:
            store = open_store(client, read=[prefix], write=[prefix])
            if not store.exists(uri):
                transfer.upload(store, archive.path, uri, progress)
        return str(uri)


def _files(folder: Path) -> list[tuple[str, Path]]:
    if folder.is_file():
        return [(folder.name, folder)]
    if not folder.is_dir():
        raise Invalid(f"there is no folder {folder}", fields=(FieldError("spec.code", f"{folder} does not exist"),))
    found = list(files_of(folder))
    if not found:
        raise Invalid(f"{folder} holds no files to send", fields=(FieldError("spec.code", "empty folder"),))
    return found


def _walk(folder: Path, base: str, rules: list[ignore.Rule]) -> Iterator[tuple[str, Path]]:
    here = list(rules)
    for name in (".gitignore", ".mwignore"):
        if (folder / name).is_file():
            here += ignore.parse((folder / name).read_text(errors="replace").splitlines(), base)
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        name = base + entry.name
        is_directory = entry.is_dir(follow_symlinks=False)
        if ignore.ignored(name, is_directory, here):
            continue
        if is_directory:
            yield from _walk(Path(entry.path), name + "/", here)
        elif entry.is_file():  # a link to a file is sent as the file; sockets and dangling links are not code
            yield name, Path(entry.path)


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    info = tarfile.TarInfo(name)
    status = path.stat()
    info.size = status.st_size
    info.mode = 0o755 if status.st_mode & 0o100 else 0o644
    with path.open("rb") as file:
        tar.addfile(info, file)


def tree_digest(path: Path) -> str:
    """SHA-256 over the names and contents of a file, or of everything in a folder."""
    digest = hashlib.sha256()
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in found:
        with file.open("rb") as content:
            inner = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path.parent).as_posix()}\0{inner}\n".encode())
    return digest.hexdigest()
