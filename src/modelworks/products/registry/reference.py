"""How a model's version is named: ``digits:1``, ``digits@prod``, ``digits``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from modelworks.kernel.resource import check_name
from modelworks.products.registry.spec import LARGEST_VERSION, check_alias


@dataclass(frozen=True)
class Reference:
    """At most one of ``version`` and ``alias``; with neither the latest version is meant."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name


def parse_reference(text: str) -> Reference:
    """Raises ValueError with the accepted forms."""
    if "@" in text:
        name, _, alias = text.partition("@")
        return Reference(check_name(name), alias=check_alias(alias))
    name, colon, number = text.partition(":")
    if not colon:
        return Reference(check_name(name))
    if not (number.isascii() and number.isdigit() and len(number) <= 10 and 1 <= int(number) <= LARGEST_VERSION):
        raise ValueError(
            f"not a model's version: {text!r}; write it as digits:1, digits@prod, or digits for the latest"
        )
    return Reference(check_name(name), version=int(number))


def near(name: str, known: list[str]) -> str:
    """``; did you mean a or b?``, or nothing."""
    found = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(found)}?" if found else ""
