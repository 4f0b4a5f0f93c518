"""A revision: everything that makes one process of a service different from another. Pure.

Replicas, queue, concurrency and the like are not in it: changing them replaces no process. An alias that moves to a
version with the same bytes is the same revision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from modelworks.products.serving.spec import ServiceSpec
from modelworks.products.serving.traffic_spec import Canary

_OF_THE_SPEC = (
    "processor",
    "entry",
    "command",
    "env",
    "volumes",
    "readiness",
    "network",
    "grace_period",
    "credentials",
)
# Those that came later: left out at their defaults, so that the digests from before are still those.
_OF_THE_SPEC_WHEN_GIVEN = ("image", "args", "port", "batching", "node_selector", "tolerations")
_DEFAULTS: dict[str, Any] = {
    "image": None,
    "args": [],
    "port": 8000,
    "batching": None,
    "node_selector": {},
    "tolerations": [],
}
_OF_THE_FACTS = ("resources", "code", "volumes", "warm_up", "mounts")
# Fields of the spec that are in it by what they name.
_BY_FACTS = ("model", "base_model", "code", "environment", "instance_type", "resources", "mounts", "warm_up")
# What may change without another process; all other fields are the revision's, by value or by what they name.
OPERATIONAL = (
    "replicas",
    "autoscaling",
    "stopped",
    "concurrency",
    "queue",
    "tasks",
    "keepalive",
    "hang_timeout",
    "max_body",
    "rate_limit",
    "concurrency_limit",
    "rolling",
    "canary",
    "traffic",
    "capture",
    "alerts",
)
CANARY_FIELDS = tuple(name for name in Canary.model_fields if name not in ("weight", "mirror", "replicas"))
RESUMED = "resumed"
"""In ``resolved``: how often reversals of this service were made void."""
_OF_THE_SERVICE = (RESUMED, "canary")


def own_facts(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a revision alone."""
    return {name: value for name, value in resolved.items() if name not in _OF_THE_SERVICE}


def revision(spec: ServiceSpec, resolved: Mapping[str, Any]) -> str:
    """The first 12 hex digits of the SHA-256 over the canonical JSON of what a process is made of."""
    stored = spec.dump()
    fields = {field: stored[field] for field in _OF_THE_SPEC if field in stored}
    fields |= {field: stored[field] for field in _OF_THE_SPEC_WHEN_GIVEN if stored.get(field) != _DEFAULTS[field]}
    environment, model = resolved.get("environment") or {}, resolved.get("model") or {}
    base = resolved.get("base_model") or {}
    parts = {
        "spec": fields,
        "facts": {field: resolved[field] for field in _OF_THE_FACTS if field in resolved},
        "environment": environment.get("digest"),
        "model": model.get("digest") or model.get("uri"),
    }
    if base:
        parts["base_model"] = base.get("digest") or base.get("uri")
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def overlaid(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the canary: the service's own with the canary's fields in their place, variables merged."""
    canary = spec.get("canary") or {}
    own = {name: value for name, value in spec.items() if name != "canary"}
    for given, other in (("image", "environment"), ("environment", "image")):
        # One is instead of the other.
        if canary.get(given) is not None and canary.get(other) is None:
            own.pop(other, None)
    for name in CANARY_FIELDS:
        value = canary.get(name)
        if value is not None:
            own[name] = {**spec.get("env", {}), **value} if name == "env" else value
    return own


def operated(of_revision: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """The revision's fields of one spec with the operational ones (replicas, limits, traffic …) of another."""
    kept = {name: value for name, value in of_revision.items() if name not in OPERATIONAL}
    return kept | {name: current[name] for name in OPERATIONAL if name in current}
