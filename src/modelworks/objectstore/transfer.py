"""Files and trees between a disk and an object store: parallel, with progress, each file whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath

import obstore
from obstore.store import S3Store

from modelworks.kernel.errors import Invalid
from modelworks.objectstore.client import ObjectClient, ObjectInfo, part_size
from modelworks.objectstore.uri import ObjectUri

Progress = Callable[[int], None]
"""Called with the bytes done since the last call, from several threads; a failed attempt takes its bytes back."""

_CHUNK = 8 << 20  # bytes read or sent at once
_MULTIPART = 16 << 20  # a file larger than this is sent in parts


def download(client: ObjectClient, uri: ObjectUri, path: Path, progress: Progress | None = None) -> int:
    """The object as the file ``path``, which appears when it is complete. Returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")

    def fetch(store: S3Store) -> int:
        done = 0
        try:
            with temporary.open("wb") as file:
                for chunk in obstore.get(store, uri.key).stream(min_chunk_size=_CHUNK):
                    done += file.write(chunk)
                    if progress is not None:
                        progress(len(chunk))
        except BaseException:
            if progress is not None and done:
                progress(-done)
            raise
        return done

    try:
        size = client.attempt(uri, fetch)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return size


def upload(client: ObjectClient, path: Path, uri: ObjectUri, progress: Progress | None = None) -> int:
    """The file ``path`` as an object, in parallel parts when it is large. Returns its size in bytes."""

    def send(store: S3Store) -> int:
        size = path.stat().st_size
        if size <= _MULTIPART:
            obstore.put(store, uri.key, path.read_bytes(), use_multipart=False)
            if progress is not None:
                progress(size)
            return size
        done = 0

        def chunks() -> Iterable[bytes]:
            nonlocal done
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
                    done += len(chunk)
                    if progress is not None:
                        progress(len(chunk))

        try:
            length = part_size(size, _CHUNK)
            obstore.put(store, uri.key, chunks(), use_multipart=True, chunk_size=length, max_concurrency=4)
        except BaseException:
            if progress is not None and done:
                progress(-done)
            raise
        return done

    return client.attempt(uri, send)


def download_tree(
    client: ObjectClient, uri: ObjectUri, directory: Path, parallel: int = 8, progress: Progress | None = None
) -> list[ObjectInfo]:
    """Everything below the folder ``uri``, as files below ``directory``. Returns what was there.

    Raises Invalid for a key that has no place below a directory.
    """
    return download_overlay(client, [uri], directory, parallel, progress)


def download_overlay(
    client: ObjectClient,
    uris: Sequence[ObjectUri],
    directory: Path,
    parallel: int = 8,
    progress: Progress | None = None,
) -> list[ObjectInfo]:
    """Like ``download_tree`` of several folders laid over each other: of the same name, the first folder's is taken."""
    found: dict[str, tuple[ObjectUri, ObjectInfo]] = {}
    for uri in uris:
        for item in client.list(uri.folder):
            if not item.key.endswith("/"):
                found.setdefault(item.key.removeprefix(uri.folder.key), (ObjectUri(uri.bucket, item.key), item))
    download_named(client, {name: source for name, (source, _) in found.items()}, directory, parallel, progress)
    return [item for _, item in found.values()]


def download_named(
    client: ObjectClient,
    sources: Mapping[str, ObjectUri],
    directory: Path,
    parallel: int = 8,
    progress: Progress | None = None,
) -> None:
    """Objects as files below ``directory`` by their names there. Raises Invalid for a name that has no place there."""
    targets = [(source, _below(directory, name)) for name, source in sources.items()]
    directory.mkdir(parents=True, exist_ok=True)
    _each(
        parallel,
        [lambda source=source, path=path: download(client, source, path, progress) for source, path in targets],  # type: ignore[misc]
    )


def upload_tree(
    client: ObjectClient, directory: Path, uri: ObjectUri, parallel: int = 8, progress: Progress | None = None
) -> list[ObjectUri]:
    """Every regular file below ``directory``, as objects below the folder ``uri``. Links to files are followed."""
    files = sorted(Path(top) / name for top, _, names in os.walk(directory) for name in names)
    pairs = [(path, uri / path.relative_to(directory).as_posix()) for path in files if path.is_file()]
    _each(
        parallel,
        [lambda path=path, target=target: upload(client, path, target, progress) for path, target in pairs],  # type: ignore[misc]
    )
    return [target for _, target in pairs]


def _below(directory: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise Invalid(f"the object key {name!r} cannot be a file below {directory}")
    return directory.joinpath(*parts)


def _each(parallel: int, calls: list[Callable[[], object]]) -> None:
    """Run ``calls`` on up to ``parallel`` threads. The first error is raised, and what has not begun is dropped."""
    with ThreadPoolExecutor(max_workers=max(1, min(parallel, len(calls) or 1))) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            wait(futures)
            raise
