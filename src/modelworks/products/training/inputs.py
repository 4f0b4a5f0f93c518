"""What the store says of a new job: small files are slow to fetch, checkpoints of another job are not gone on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from modelworks.kernel.errors import ModelworksError
from modelworks.kernel.quantities import format_bytes
from modelworks.kernel.resource import Resource
from modelworks.objectstore.client import ObjectClient, ObjectInfo
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.training.spec import TrainingJobSpec

MANY, SMALL = 500, 256 * 1024
"""So many files, of so many bytes on average, are worth a warning."""
_PAGE = 1000
_SOME = 20

First = Callable[[str, int], tuple[ObjectInfo, ...]]
"""Up to so many objects of a folder; none where nobody knows."""


def advise(resource: Resource, credentials: Callable[[], Credentials], patience: float) -> list[str]:
    """Notes about a job that was just submitted, for people."""
    spec = TrainingJobSpec.parse(resource.spec, at="spec")
    return look(credentials, spec, resource.resolved, patience, uid=resource.uid)


def look(
    credentials: Callable[[], Credentials],
    spec: TrainingJobSpec,
    resolved: Mapping[str, Any],
    patience: float,
    *,
    uid: str = "",
) -> list[str]:
    """What the store says about a new job, for people; ``uid`` where it has one.

    A store that takes longer than ``patience`` seconds for all of it is not waited for: nobody submits later for the
    sake of a note.
    """
    until = time.monotonic() + patience

    def first(uri: str, count: int) -> tuple[ObjectInfo, ...]:
        left = until - time.monotonic()
        if left <= 0:
            return ()
        try:
            return ObjectClient(credentials, deadline=0.0, timeout=left).first(ObjectUri.parse(uri), count)
        except ModelworksError:
            return ()  # whether it can be read is told when the job begins

    return [*_small_files(first, spec, resolved), *_others_checkpoints(first, resolved, uid)]


def _others_checkpoints(first: First, resolved: Mapping[str, Any], uid: str) -> list[str]:
    """A note for who names a folder of checkpoints a second time: that a job begins at zero is seen too late."""
    uri = resolved.get("checkpoints")
    if uri is None or not any(uid == "" or f"/{uid}/" not in item.key for item in first(uri, _SOME)):
        return []
    return [
        f"{uri} holds files of before, and this job does not begin with them: each job writes its checkpoints into a "
        "folder of its own there, which its attempts alone go on from; to go on from another job's, give the folder "
        "of its last attempt as an input"
    ]


def _small_files(first: First, spec: TrainingJobSpec, resolved: Mapping[str, Any]) -> list[str]:
    """A note for each input of a job of several replicas that is many small files; the first page is listed."""
    found: list[str] = []
    for what, uri in _read(spec, resolved) if spec.size > 1 else ():
        sizes = [item.size for item in first(uri, _PAGE)]
        mean = sum(sizes) // max(1, len(sizes))
        if len(sizes) >= MANY and mean < SMALL:
            more = " or more" if len(sizes) >= _PAGE else ""
            found.append(
                f"{what} has {len(sizes)}{more} files of {format_bytes(mean)} on average: each of the "
                f"{spec.size} replicas fetches them one by one; archives of some 100 MiB (tar, Parquet) are faster"
            )
    return found


def _read(spec: TrainingJobSpec, resolved: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All that each replica fetches: in words, and its URI."""
    channels = resolved.get("inputs", spec.inputs)
    mounted = {**resolved.get("mounts", {}), **resolved.get("buckets", {})}
    return [
        *((f"the channel {channel}", uri) for channel, uri in sorted(channels.items())),
        *((f"what is at {path}", uri) for path, uri in sorted(mounted.items())),
    ]
