"""What a canary's weight, a promotion or a rollback make of a service's spec and facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelworks.kernel.errors import Conflict
from modelworks.products.serving.revisions import CANARY_FIELDS, OPERATIONAL, RESUMED, operated, overlaid, own_facts

_OPERATIONAL_FACTS = ("capture",)


@dataclass(frozen=True)
class Change:
    """The spec to store, and what its names stand for; ``resolved`` is None where they must be looked up again.

    ``canary_only``: only those of the canary, since the service's own are as they were. ``said`` is the event.
    """

    spec: dict[str, Any]
    resolved: dict[str, Any] | None
    said: str
    canary_only: bool = False


def canary_change(spec: Mapping[str, Any], resolved: Mapping[str, Any], given: Mapping[str, Any]) -> Change:
    """``given`` are the canary's fields that change. Weight 100 makes it the service's own, and 0 alone ends it.

    Raises Conflict when there is no canary and nothing is given that would make one.
    """
    current = spec.get("canary")
    own = [name for name in CANARY_FIELDS if given.get(name) is not None]
    if not current and not own:
        raise Conflict("the service has no canary", remedy="say what it has of its own, such as --canary-model NAME:2")
    canary = {**(current or {}), **{name: value for name, value in given.items() if value is not None}}
    weight, known = canary.get("weight", 0), dict(resolved) if not own and "canary" in resolved else None
    if weight == 100:
        promoted = overlaid({**spec, "canary": canary})
        return Change(promoted, _with_count(resolved["canary"], resolved) if known else None, "the canary was promoted")
    if given.get("weight") == 0 and not own and not canary.get("mirror"):
        left = {name: value for name, value in spec.items() if name != "canary"}
        return Change(left, _with_count(own_facts(resolved), resolved), "the canary was taken back")
    said = f"canary: {', '.join(f'{name} {value}' for name, value in sorted(given.items()) if value is not None)}"
    return Change({**spec, "canary": canary}, known, said, canary_only=True)


def rolled_back(
    spec: Mapping[str, Any], resolved: Mapping[str, Any], old_spec: Mapping[str, Any], old: Mapping[str, Any], said: str
) -> Change:
    """The service as that revision was; replicas, limits, alerts and traffic stay, and the other one's canary ends."""
    back = {name: value for name, value in operated(old_spec, spec).items() if name != "canary"}
    facts = {name: value for name, value in own_facts(old).items() if name not in _OPERATIONAL_FACTS}
    facts |= {name: resolved[name] for name in _OPERATIONAL_FACTS if name in resolved}
    return Change(back, _with_count(facts, resolved), said)


def resumed(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The facts once more, where what was taken back is tried again."""
    return {**resolved, RESUMED: int(resolved.get(RESUMED, 0)) + 1}


def former(history: Sequence[str], current: str) -> str | None:
    """The revision that the spec asked for before ``current``."""
    before = [name for name in history if name != current]
    return before[-1] if before else None


def summary(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What people tell revisions apart by."""
    shown = ("processor", "model", "image", "entry", "command", "environment", "code")
    return {name: spec[name] for name in shown if spec.get(name) is not None and name not in OPERATIONAL}


def _with_count(facts: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    return {**facts, **({RESUMED: resolved[RESUMED]} if RESUMED in resolved else {})}
