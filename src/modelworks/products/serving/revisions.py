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
_OF_THE_FACTS = ("resources", "code", "volumes")


def revision(spec: ServiceSpec, resolved: Mapping[str, Any]) -> str:
    """The first 12 hex digits of the SHA-256 over the canonical JSON of what a process is made of."""
    stored = spec.dump()
    environment, model = resolved.get("environment") or {}, resolved.get("model") or {}
    parts = {
        "spec": {field: stored[field] for field in _OF_THE_SPEC if field in stored},
        "facts": {field: resolved[field] for field in _OF_THE_FACTS if field in resolved},
        "environment": environment.get("digest"),
        "model": model.get("digest") or model.get("uri"),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
