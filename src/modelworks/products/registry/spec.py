"""What a user may write of a model. See docs/architecture.md, "Manifests"."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from modelworks.kernel.spec import Spec

_ALIAS = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
LARGEST_VERSION = 2**31 - 1


def check_alias(alias: str) -> str:
    """Aliases begin with a letter, so that none looks like a version."""
    if not _ALIAS.fullmatch(alias):
        raise ValueError(
            f"not an alias: {alias!r}; use 1-63 lower-case letters, digits and '-', beginning with a letter"
        )
    return alias


Alias = Annotated[str, AfterValidator(check_alias)]
VersionNumber = Annotated[int, Field(ge=1, le=LARGEST_VERSION)]


class ModelSpec(Spec):
    """A name for versions. ``aliases`` say which version ``name@alias`` is; each must exist."""

    description: str = Field(default="", max_length=4096)
    aliases: dict[Alias, VersionNumber] = Field(default_factory=dict, max_length=100)
