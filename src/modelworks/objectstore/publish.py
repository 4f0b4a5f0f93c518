"""One attempt's output becomes the output: copied within the store, its manifest last, never over a later attempt's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

from modelworks.kernel.errors import NotFound
from modelworks.objectstore.client import ObjectClient, ObjectInfo
from modelworks.objectstore.uri import ObjectUri

MANIFEST = ".manifest.json"
_PARALLEL = 8
_BEAT = 1.0  # seconds


def publish(
    client: ObjectClient, source: ObjectUri, target: ObjectUri, beat: Callable[[], object] = lambda: None
) -> bool:
    """All that the manifest of ``source`` names is below ``target`` too; False when there was nothing to do.

    That is so when it is there already, when a later attempt of the same job was published before, and when ``source``
    has no manifest: nothing was committed, or it was copied and removed. May be repeated after any error: what is there
    already is not copied again. ``beat`` is called every second meanwhile, and may raise to give up.
    """
    manifest = _read(client, source.folder / MANIFEST)
    if manifest is None:
        return False
    known = _read(client, target.folder / MANIFEST)
    if known is not None and (known == manifest or _later(known, manifest)):
        return False
    there, done = _listed(client, source), _listed(client, target)
    _copy(
        client,
        [
            (source.folder / path, target.folder / path, there.get(path))
            for path in (str(file["path"]) for file in manifest["files"])
            if not _same(there.get(path), done.get(path))
        ],
        beat,
    )
    client.put(target.folder / MANIFEST, json.dumps(manifest).encode())
    return True


def _copy(
    client: ObjectClient, pairs: Sequence[tuple[ObjectUri, ObjectUri, ObjectInfo | None]], beat: Callable[[], object]
) -> None:
    """All of ``pairs`` (from, to, and what is known of it). The first error ends it, and so does one of ``beat``."""
    over = threading.Event()
    with ThreadPoolExecutor(_PARALLEL) as pool:
        waiting = {pool.submit(client.copy, *pair, given_up=over.is_set) for pair in pairs}
        try:
            while waiting:
                ended, waiting = wait(waiting, _BEAT, FIRST_COMPLETED)
                for one in ended:
                    one.result()
                beat()
        except BaseException:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _listed(client: ObjectClient, folder: ObjectUri) -> dict[str, ObjectInfo]:
    root = folder.folder
    return {item.key.removeprefix(root.key): item for item in client.list(root)}


def _same(source: ObjectInfo | None, target: ObjectInfo | None) -> bool:
    """Whether a copy that was given up came so far. Where the store gives copies other ETags, they are made again."""
    return source is not None and target is not None and (source.size, source.etag) == (target.size, target.etag)


def _read(client: ObjectClient, uri: ObjectUri) -> dict[str, Any] | None:
    try:
        document = json.loads(client.get(uri))
    except (NotFound, ValueError):  # what is not JSON was not written by us
        return None
    return document if isinstance(document, dict) else None


def _later(known: dict[str, Any], manifest: dict[str, Any]) -> bool:
    """Whether ``known`` is of a later attempt of the same resource. Keys are ``uid/a<attempt>/ordinal/incarnation``."""
    before, now = (str(document.get("key", "")).split("/") for document in (known, manifest))
    return len(before) == len(now) == 4 and before[0] == now[0] and _number(before[1]) > _number(now[1])


def _number(attempt: str) -> int:
    return int(attempt[1:]) if attempt[1:].isdecimal() else 0
