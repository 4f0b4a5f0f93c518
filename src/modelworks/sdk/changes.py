"""Changing a service that is there by some of its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelworks.kernel.errors import Invalid
from modelworks.sdk.client import Client, Document
from modelworks.sdk.service_containers import place

KIND = "Service"
# Of each pair a spec holds one: a new value of one takes the other away.
_EITHER = (("resources", "instance_type"),)
_PLACES = ("processor", "environment", "image")


def change(client: Client, name: str, made: Callable[[dict[str, Any]], dict[str, Any]]) -> Document:
    """Apply what ``made`` makes of the service's spec: ``{action, resource, changes, notes}``. Raises NotFound."""
    found = client.get(KIND, name)
    metadata = found["metadata"]
    kept = {key: metadata[key] for key in ("name", "workspace", "labels") if metadata.get(key)}
    (applied,) = client.apply([{"kind": KIND, "metadata": kept, "spec": made(dict(found["spec"]))}])
    return applied


def with_fields(
    spec: Mapping[str, Any],
    *,
    model: str | None = None,
    image: str | None = None,
    replicas: int | None = None,
    least: int | None = None,
    most: int | None = None,
) -> dict[str, Any]:
    """The spec with these in their place; ``least`` and ``most`` are of autoscaling. Raises Invalid."""
    found = dict(spec)
    if model is not None:
        found["model"] = model
    if image is not None:
        found |= {"image": image} if _contained(spec) else _placed(found, image)
    if replicas is not None:
        if spec.get("autoscaling"):
            raise Invalid("the number of replicas is chosen by autoscaling", remedy="give --min and --max")
        found["replicas"] = replicas
    if least is not None or most is not None:
        scaling = dict(spec.get("autoscaling") or {})
        scaling |= {key: value for key, value in (("min", least), ("max", most)) if value is not None}
        # One limit that passes the other takes it along; what was wished at first may not lie between any more.
        if least is not None and most is None:
            scaling["max"] = max(scaling.get("max", 1), least)
        elif most is not None and least is None:
            scaling["min"] = min(scaling.get("min", 1), most)
        initial, low, high = scaling.get("initial"), scaling.get("min", 1), scaling.get("max", 1)
        if initial is not None:
            scaling["initial"] = max(low, min(high, initial))
        if scaling.get("prewarm", 1) > high:
            scaling["prewarm"] = high
        found["autoscaling"] = scaling
    return found


def merged(spec: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``new`` in place of the spec's, mappings field by field."""
    found = dict(spec)
    for one, other in (*_EITHER, *((b, a) for a, b in _EITHER)):
        if one in new and other not in new:
            found.pop(other, None)
    if new.get("processor") not in (None, spec.get("processor")):
        for name in ("entry", "command", "image", "args"):
            found.pop(name, None)
    for key, value in new.items():
        below = found.get(key)
        mappings = isinstance(value, Mapping) and key != "env"
        found[key] = merged(below, value) if isinstance(below, Mapping) and mappings else value
    return found


def _contained(spec: Mapping[str, Any]) -> bool:
    """Whether an image is what the service runs in: a template, or the processor image."""
    return spec.get("processor") not in ("command", "image")


def _placed(spec: dict[str, Any], image: str) -> dict[str, Any]:
    """A command runs in an environment when the image's name stands for one, else in the image."""
    for name in _PLACES:
        spec.pop(name, None)
    return place(image)
