"""The files a version is made of: read from where they lie, and copied to where nobody changes them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from modelworks.kernel.errors import FieldError, Invalid, NotFound
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri

_MANIFEST = ".manifest.json"
_METRICS = "metrics.json"
_ADAPTER = "adapter_config.json"
_LARGEST_METRICS = 1024**2
_MOST_FILES = 100_000
_PARALLEL = 8


@dataclass(frozen=True)
class Source:
    """Files below ``root``: ``{path, size, digest}``, sorted by path. A digest is ``sha256:…`` or ``etag:…``."""

    root: ObjectUri
    files: tuple[Mapping[str, Any], ...]

    @property
    def size(self) -> int:
        return sum(file["size"] for file in self.files)

    @property
    def digest(self) -> str:
        """Of names, sizes and contents: ``sha256:<hex>``."""
        text = json.dumps([[f["path"], f["size"], f["digest"]] for f in self.files], separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class _File(BaseModel):
    path: Annotated[str, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0, lt=1 << 63)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Manifest(BaseModel):
    files: Annotated[list[_File], Field(max_length=_MOST_FILES)]


def read_source(client: ObjectClient, uri: ObjectUri, path: str) -> Source:
    """What lies at ``uri``: a committed output (by its manifest), a folder, or one object.

    Raises Invalid at ``path`` when there is nothing, or a manifest that is none.
    """
    folder = ObjectUri(uri.bucket, uri.key if uri.key.endswith("/") or not uri.key else f"{uri.key}/")
    source = _committed(client, folder, path) or _listed(client, folder)
    if source is None and not uri.key.endswith("/") and uri.key:
        source = _single(client, uri)
    if source is None:
        said = f"there are no files at {uri}"
        raise Invalid(said, fields=(FieldError(path, said),))
    if len(source.files) > _MOST_FILES:
        said = f"{uri} holds more than {_MOST_FILES} files; pack them"
        raise Invalid(said, fields=(FieldError(path, said),))
    return source


def read_metrics(client: ObjectClient, source: Source) -> dict[str, float]:
    """The numbers of ``metrics.json`` among the files, if it is there and holds any."""
    found = next((file for file in source.files if file["path"] == _METRICS), None)
    if found is None or found["size"] > _LARGEST_METRICS:
        return {}
    try:
        data = json.loads(client.get(ObjectUri(source.root.bucket, source.root.key + _METRICS)))
    except ValueError:
        return {}  # a file of that name that is not ours
    if not isinstance(data, dict):
        return {}
    return {
        str(name)[:256].replace("\0", ""): float(value)
        for name, value in list(data.items())[:1000]
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def read_base_model(client: ObjectClient, source: Source) -> str | None:
    """What a LoRA adapter among the files says that it was trained on."""
    found = next((file for file in source.files if file["path"] == _ADAPTER), None)
    if found is None or found["size"] > _LARGEST_METRICS:
        return None
    try:
        data = json.loads(client.get(ObjectUri(source.root.bucket, source.root.key + _ADAPTER)))
    except ValueError:
        return None  # a file of that name that is no adapter's
    named = data.get("base_model_name_or_path") if isinstance(data, dict) else None
    return named[:1024].replace("\0", "") if isinstance(named, str) and named else None


def copy_files(client: ObjectClient, source: Source, target: ObjectUri) -> None:
    """Copy within the store, several at once. Repeated, what is there is overwritten with the same."""

    def copy(file: Mapping[str, Any]) -> None:
        client.copy(
            ObjectUri(source.root.bucket, source.root.key + file["path"]),
            ObjectUri(target.bucket, target.key + file["path"]),
        )

    with ThreadPoolExecutor(_PARALLEL) as pool:
        for _ in pool.map(copy, source.files):
            pass


def _committed(client: ObjectClient, folder: ObjectUri, path: str) -> Source | None:
    try:
        text = client.get(ObjectUri(folder.bucket, folder.key + _MANIFEST))
    except NotFound:
        return None
    try:
        manifest = _Manifest.model_validate_json(text)
    except ValidationError:
        said = f"{folder}{_MANIFEST} is not a manifest of an output"
        raise Invalid(said, fields=(FieldError(path, said),)) from None
    files = [{"path": f.path, "size": f.size, "digest": f"sha256:{f.sha256}"} for f in manifest.files]
    return _source(folder, files, path)


def _listed(client: ObjectClient, folder: ObjectUri) -> Source | None:
    try:
        found = list(client.list(folder))
    except NotFound:
        return None  # no such bucket
    files = [
        {"path": object_.key.removeprefix(folder.key), "size": object_.size, "digest": f"etag:{object_.etag}"}
        for object_ in found
        if not object_.key.endswith("/")
    ]
    return _source(folder, files, "uri") if files else None


def _single(client: ObjectClient, uri: ObjectUri) -> Source | None:
    try:
        found = client.head(uri)
    except NotFound:
        return None
    parent, _, name = uri.key.rpartition("/")
    root = ObjectUri(uri.bucket, f"{parent}/" if parent else "")
    return _source(root, [{"path": name, "size": found.size, "digest": f"etag:{found.etag}"}], "uri")


def _source(root: ObjectUri, files: Sequence[Mapping[str, Any]], path: str) -> Source | None:
    for file in files:
        if any(part in ("", ".", "..") for part in file["path"].split("/")):
            said = f"{file['path']!r} cannot be a file's path"
            raise Invalid(said, fields=(FieldError(path, said),))
    return Source(root, tuple(sorted(files, key=lambda file: file["path"]))) if files else None
