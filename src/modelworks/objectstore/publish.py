"""One attempt's output becomes the output: copied within the store, its manifest last, never over a later attempt's."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modelworks.kernel.errors import NotFound
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri

MANIFEST = ".manifest.json"
_PARALLEL = 8


def publish(
    client: ObjectClient, source: ObjectUri, target: ObjectUri, beat: Callable[[], object] = lambda: None
) -> bool:
    """All that the manifest of ``source`` names is below ``target`` too; False when there was nothing to do.

    That is so when it is there already, when a later attempt of the same job was published before, and when ``source``
    has no manifest: nothing was committed, or it was copied and removed. May be repeated after any error. ``beat`` is
    called between two objects, and may raise to give up.
    """
    manifest = _read(client, source.folder / MANIFEST)
    if manifest is None:
        return False
    known = _read(client, target.folder / MANIFEST)
    if known is not None and (known == manifest or _later(known, manifest)):
        return False
    paths = [str(file["path"]) for file in manifest["files"]]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for first in range(0, len(paths), _PARALLEL):
            batch = paths[first : first + _PARALLEL]
            list(pool.map(lambda path: client.copy(source.folder / path, target.folder / path), batch))
            beat()
    client.put(target.folder / MANIFEST, json.dumps(manifest).encode())
    return True


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
