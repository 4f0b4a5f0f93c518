"""Passes over one service in a model of the world, for tests of its decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.simulated import START, Loop, World

from modelworks.kernel.decision import Decision
from modelworks.kernel.resource import Ref, Resource
from modelworks.kernel.run import RunReason
from modelworks.products.serving.decide import decide
from modelworks.products.serving.observe import Observed
from modelworks.products.serving.queries import KnownToken

SURGE = 1
UID = "abcdef0123456789"
CREATED = datetime.fromtimestamp(START, UTC)


def service(digest: str = "d1", **spec: Any) -> Resource:
    return Resource(
        uid=UID,
        ref=Ref("default", "Service", "digits"),
        generation=1,
        spec={"processor": "onnx", "model": "digits:1"} | spec,
        created_at=CREATED,
        updated_at=CREATED,
        resolved={
            "instance_type": "local.small",
            "price_per_hour": 0.05,
            "resources": {"cpu": "1000m", "memory": 2 << 30},
            "environment": {"digest": "e" * 64},
            "model": {"uri": "s3://mw-default/models/digits/1/", "digest": digest},
        },
    )


def loop(resource: Resource, world: World | None = None) -> Loop:
    def one(resource: Resource, world: World) -> Decision:
        tokens = {"f" * 64: KnownToken()} if world.token else {}
        runs, claims = tuple(world.runs.values()), tuple(world.claims.values())
        observed = Observed(runs, claims, world.route, tokens, world.traffic, world.revisions)
        return decide(resource, observed, world.time)

    return Loop(resource, world or World(), one)


def change(it: Loop, digest: str = "d1", **spec: Any) -> None:
    fresh = service(digest, **spec)
    it.resource = replace(it.resource, spec=fresh.spec, resolved=fresh.resolved, generation=it.resource.generation + 1)


def make_ready(it: Loop, *keys: str) -> None:
    for key in keys or tuple(it.world.live):
        it.world.start(key, ready=True)
    it.settle()


def up(replicas: int = 2, room: int = 1000) -> Loop:
    it = loop(service(replicas=replicas), World(room=room))
    it.settle()
    make_ready(it)
    assert it.status["phase"] == "Running"
    return it


def addresses(it: Loop) -> set[str]:
    assert it.world.route is not None
    return {replica["address"] for replica in it.world.route["replicas"]}


def address(key: str) -> str:
    return f"unix:/run/{key.replace('/', '-')}.sock"


def fail_all(it: Loop, keys: set[str]) -> None:
    for key in keys & set(it.world.live):
        it.world.end(key, RunReason.FAILED, 1, "exited with code 1")
