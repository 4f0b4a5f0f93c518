"""What to do next about a model: say what there is of it. Pure."""

from __future__ import annotations

from datetime import datetime

from modelworks.kernel.decision import Decision, Remove
from modelworks.kernel.quantities import format_bytes
from modelworks.kernel.resource import Resource
from modelworks.products.registry.observe import ModelObserved


def decide(resource: Resource, observed: ModelObserved, now: datetime) -> Decision:
    """A model is ready once it is stored, and gone once it is deleted: its versions are data, and hold nothing."""
    if resource.deleting is not None:
        return Decision(resource.status, (Remove(),))
    noun = "version" if observed.versions == 1 else "versions"
    parts = [f"{observed.versions} {noun}" if observed.versions else "no version yet"]
    if observed.versions:
        parts.append(format_bytes(observed.size))
    parts += [f"{alias} → {number}" for alias, number in sorted(resource.spec.get("aliases", {}).items())]
    status = {
        "phase": "Ready",
        "message": ", ".join(parts),
        "observed_generation": resource.generation,
        "versions": observed.versions,
        "latest": observed.latest,
    }
    return Decision(status)
