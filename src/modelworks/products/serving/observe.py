"""What a decision about a service sees of the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelworks.kernel.resource import Resource
from modelworks.kernel.run import RunObservation
from modelworks.kernel.traffic import Traffic
from modelworks.products.kind import ClaimView, World
from modelworks.products.serving.queries import KnownToken, known_tokens, published_routes, revision_numbers

# Seconds between two looks while the traffic changes: of the autoscaler, and at a latency that has a bound.
_SCALES_EVERY = 1.0
_ALERTS_EVERY = 10.0


@dataclass(frozen=True)
class Observed:
    """``route`` is what the gateways were told last. ``tokens`` maps SHA-256 → the token.

    ``traffic`` is what the gateways said of its requests lately, ``recorded`` maps the revisions kept → their numbers.
    """

    runs: tuple[RunObservation, ...] = ()
    claims: tuple[ClaimView, ...] = ()
    route: Mapping[str, Any] | None = None
    tokens: Mapping[str, KnownToken] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    recorded: Mapping[str, int] = field(default_factory=dict)


def observe(resource: Resource, world: World) -> Observed:
    """Raises Unavailable when a node cannot be asked: the service is then left as it is, and goes on serving."""
    targets = (resource.spec.get("autoscaling") or {}).get("metrics") or {}
    if targets.get("cpu") or targets.get("gpu"):
        world.measure(resource.uid)
    return Observed(
        runs=tuple(world.runs(resource.uid)),
        claims=tuple(world.claims(resource.uid)),
        route=world.shared(published_routes).get(resource.uid),
        tokens=world.shared(known_tokens).get(resource.uid, {}),
        traffic=world.traffic(resource.uid, _passes_every(resource.spec)),
        recorded=world.shared(revision_numbers).get(resource.uid, {}),
    )


def _passes_every(spec: Mapping[str, Any]) -> float | None:
    """How often a service is looked at while its traffic changes, seconds; None: at news and errors."""
    if spec.get("stopped"):
        return None
    if spec.get("autoscaling"):
        return _SCALES_EVERY
    return _ALERTS_EVERY if (spec.get("alerts") or {}).get("p99") else None
