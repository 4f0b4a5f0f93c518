"""A look at a job's inputs before it is submitted: many small files are slow to fetch on every node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.errors import ModelworksError
from modelworks.kernel.quantities import format_bytes
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.context import Context
from modelworks.products.training.spec import TrainingJobSpec

MANY, SMALL = 500, 256 * 1024
"""So many files, of so many bytes on average, are worth a warning."""
_PAGE = 1000


def small_files(context: Context, spec: TrainingJobSpec, resolved: Mapping[str, Any]) -> list[str]:
    """A note for each channel of a job of several replicas that reads many small files; the first page is listed."""
    if spec.size < 2:
        return []
    client = ObjectClient(context.credentials, deadline=2.0)
    found = []
    for channel, uri in sorted(resolved.get("inputs", spec.inputs).items()):
        try:
            sizes = [item.size for item in client.first(ObjectUri.parse(uri), _PAGE)]
        except ModelworksError:
            continue  # whether it can be read is told when the job begins
        mean = sum(sizes) // max(1, len(sizes))
        if len(sizes) >= MANY and mean < SMALL:
            more = " or more" if len(sizes) >= _PAGE else ""
            found.append(
                f"the channel {channel} has {len(sizes)}{more} files of {format_bytes(mean)} on average: each of the "
                f"{spec.size} replicas fetches them one by one; archives of some 100 MiB (tar, Parquet) are faster"
            )
    return found
