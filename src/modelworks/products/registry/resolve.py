"""A model's aliases checked, at apply."""

from __future__ import annotations

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.resource import Metadata
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.registry import queries
from modelworks.products.registry.spec import ModelSpec


def resolve(metadata: Metadata, spec: ModelSpec, lookup: Lookup) -> Resolved:
    """Raises Invalid at every alias that names a version which is not there."""
    wanted = sorted(set(spec.aliases.values()))
    there = queries.existing_versions(lookup.connection, metadata.workspace, metadata.name, wanted)
    wrong = tuple(
        FieldError(f"spec.aliases.{alias}", f"the model {metadata.name} has no version {number}")
        for alias, number in sorted(spec.aliases.items())
        if number not in there
    )
    if wrong:
        raise Invalid("an alias names a version that is not there", fields=wrong, remedy="register the version first")
    return Resolved()
