"""Passes over one training job in a model of the world."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.simulated import START, Loop, World

from modelworks.kernel.decision import Decision
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.training.decide import decide
from modelworks.products.training.observe import Observed

UID = "abcdef0123456789"
CREATED = datetime.fromtimestamp(START, UTC)


def job(**spec: Any) -> Resource:
    resolved = {
        "instance_type": "local.small",
        "price_per_hour": 0.05,
        "resources": {"cpu": "1000m", "memory": 2 << 30},
        "inputs": {"data": "s3://digits/train/"},
    }
    return Resource(
        uid=UID,
        ref=Ref("default", "TrainingJob", "digits"),
        generation=1,
        spec={"command": "python train.py", "inputs": {"data": "s3://digits/train/"}} | spec,
        created_at=CREATED,
        updated_at=CREATED,
        resolved=resolved,
    )


def loop(resource: Resource, world: World | None = None, cancel: list[float] | None = None) -> Loop:
    asked = cancel if cancel is not None else []

    def one(resource: Resource, world: World) -> Decision:
        observed = Observed(tuple(world.runs.values()), tuple(world.claims.values()), asked[0] if asked else None)
        return decide(resource, observed, world.time)

    return Loop(resource, world or World(), one)


def key(attempt: int = 1, rank: int = 0) -> str:
    return f"{UID}/a{attempt}/{rank}/0"
