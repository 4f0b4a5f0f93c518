"""A look at a job's inputs when it is submitted: many small files are slow to fetch on every node."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from modelworks.kernel.errors import ModelworksError
from modelworks.kernel.quantities import format_bytes
from modelworks.kernel.resource import Resource
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.training.spec import TrainingJobSpec

MANY, SMALL = 500, 256 * 1024
"""So many files, of so many bytes on average, are worth a warning."""
_PAGE = 1000


def advise(resource: Resource, credentials: Callable[[], Credentials], patience: float) -> list[str]:
    """Notes about a job that was just submitted, for people."""
    return small_files(credentials, TrainingJobSpec.parse(resource.spec, at="spec"), resource.resolved, patience)


def small_files(
    credentials: Callable[[], Credentials], spec: TrainingJobSpec, resolved: Mapping[str, Any], patience: float
) -> list[str]:
    """A note for each input of a job of several replicas that is many small files; the first page is listed.

    A store that takes longer than ``patience`` seconds for all of them is not waited for: nobody submits later for the
    sake of a note.
    """
    if spec.size < 2:
        return []
    found, until = [], time.monotonic() + patience
    for what, uri in _read(spec, resolved):
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            client = ObjectClient(credentials, deadline=0.0, timeout=left)
            sizes = [item.size for item in client.first(ObjectUri.parse(uri), _PAGE)]
        except ModelworksError:
            continue  # whether it can be read is told when the job begins
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
