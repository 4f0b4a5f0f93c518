"""What a user may write: frozen pydantic models that reject what they do not know, with the path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from modelworks.kernel.errors import Invalid
from modelworks.kernel.wrong_fields import field_errors


class Spec(BaseModel):
    """Base of everything that crosses a boundary. Frozen; unknown fields are errors; numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_timedelta="float")

    @classmethod
    def parse(cls, data: object, *, at: str = "") -> Self:
        """Validate ``data``; raises :class:`Invalid` with every wrong field's dotted path below ``at``."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            fields = field_errors(error, cls, data, at)
            raise Invalid(_summary(cls, len(fields)), fields=fields) from None

    def dump(self) -> dict[str, Any]:
        """As JSON-ready data, without fields that were left at ``None``."""
        return self.model_dump(mode="json", exclude_none=True)


def written_switch(value: object) -> object:
    """For a choice that has ``on`` or ``off`` among its words: written bare, YAML takes them for booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _summary(cls: type[BaseModel], count: int) -> str:
    noun = "field is" if count == 1 else "fields are"
    return f"{count} {noun} wrong in {cls.__name__.removesuffix('Spec') or cls.__name__}"


def changed_paths(before: Mapping[str, Any], after: Mapping[str, Any], at: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves that differ between two JSON-like mappings: ``(dotted path, before, after)``; None where missing."""
    changes: list[tuple[str, Any, Any]] = []
    for key in sorted({*before, *after}):
        old, new, path = before.get(key), after.get(key), f"{at}.{key}" if at else str(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += changed_paths(old, new, path)
        elif old != new:
            changes.append((path, old, new))
    return changes
