"""The wrong fields of a pydantic error as people know them: paths and words of the manifest, not of our classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from modelworks.kernel.errors import FieldError

Location = tuple[int | str, ...]

# What pydantic says of Python's types, in words that hold for YAML and JSON.
_WORDS = {
    "dict_type": "Input should be a mapping",
    "mapping_type": "Input should be a mapping",
    "model_type": "Input should be a mapping",
    "model_attributes_type": "Input should be a mapping",
    "list_type": "Input should be a list",
    "tuple_type": "Input should be a list",
    "string_type": "Input should be text",
}
_MAX_NAMES = 8


def field_errors(error: ValidationError, cls: type[BaseModel], data: object, at: str = "") -> tuple[FieldError, ...]:
    """The wrong fields of ``data`` for ``cls``, each once, with its dotted path below ``at``."""
    found: dict[Location, list[tuple[Location, str]]] = {}
    for item in error.errors(include_url=False, include_input=False):
        location, alternative = _written(item["loc"], data, missing=item["type"] == "missing")
        message = _WORDS.get(item["type"], item["msg"]).removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown field" + _offer(cls, item["loc"])
        found.setdefault(location if alternative is None else alternative, []).append((location, message))
    return tuple(
        FieldError(".".join([p for p in [at, *(str(part) for part in location)] if p]), message)
        for group, items in found.items()
        for location, message in _told(group, items)
    )


def _written(location: Location, data: object, *, missing: bool) -> tuple[Location, Location | None]:
    """The location without the names that pydantic gives to alternatives; and where those began, if there are any."""
    here, path, alternative = data, list[int | str](), None
    for number, part in enumerate(location):
        last = number == len(location) - 1
        if isinstance(here, Mapping) and (part in here or (last and missing)):
            here = here.get(part)
        elif isinstance(part, int) and isinstance(here, Sequence) and not isinstance(here, str) and part < len(here):
            here = here[part]
        elif alternative is None:
            alternative = tuple(path)
            continue
        else:
            continue
        path.append(part)
    return tuple(path), alternative


def _told(group: Location, items: Sequence[tuple[Location, str]]) -> list[tuple[Location, str]]:
    """Of alternatives the one that was meant, which is the one that is wrong further inside; else all in one line."""
    inside = [item for item in items if len(item[0]) > len(group)]
    if inside or len(items) == 1:
        return inside or list(items)
    messages = list(dict.fromkeys(message.removeprefix("Input should be ") for _, message in items))
    start = "Input should be " if all(message.startswith("Input should be ") for _, message in items) else ""
    return [(group, start + " or ".join(messages))] if start else list(items)


def _offer(cls: type[BaseModel], location: Location) -> str:
    """``; did you mean replicas?`` for a name close to a field's, else the fields when they are few."""
    models = [cls]
    for part in location[:-1]:
        fields = [model.model_fields[part] for model in models if isinstance(part, str) and part in model.model_fields]
        models = [inner for field in fields for inner in _models(field.annotation)] if fields else models
    names = list(dict.fromkeys(name for model in models for name in model.model_fields))
    near = get_close_matches(str(location[-1]).lower().replace("-", "_"), names, n=1, cutoff=0.55)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; the fields are {', '.join(names)}" if 0 < len(names) <= _MAX_NAMES else ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
