"""What a user may write: frozen pydantic models that reject what they do not know, with the path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from modelworks.kernel.errors import FieldError, Invalid


class Spec(BaseModel):
    """Base of everything that crosses a boundary. Frozen; unknown fields are errors; numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_timedelta="float")

    @classmethod
    def parse(cls, data: object, *, at: str = "") -> Self:
        """Validate ``data``; raises :class:`Invalid` with every wrong field's dotted path below ``at``."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise Invalid(_summary(cls, error), fields=field_errors(error, at)) from None

    def dump(self) -> dict[str, Any]:
        """As JSON-ready data, without fields that were left at ``None``."""
        return self.model_dump(mode="json", exclude_none=True)


def field_errors(error: ValidationError, at: str = "") -> tuple[FieldError, ...]:
    """The wrong fields of a pydantic error, as dotted paths."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        path = ".".join([p for p in [at, *(str(part) for part in item["loc"])] if p])
        message = "unknown field" if item["type"] == "extra_forbidden" else item["msg"]
        found.append(FieldError(path, message.removeprefix("Value error, ")))
    return tuple(found)


def _summary(cls: type[BaseModel], error: ValidationError) -> str:
    count = error.error_count()
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
