"""The autoscaler in a pass over a service."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.simulated import START, Loop, World

from modelworks.kernel.decision import Decision, Emit, EnsureRun, PublishRoute, RecordScale, Reserve, StopRun
from modelworks.kernel.resource import Ref, Resource
from modelworks.kernel.run import RunReason
from modelworks.kernel.traffic import Sample, Traffic
from modelworks.products.serving.decide import decide
from modelworks.products.serving.observe import Observed
from modelworks.products.serving.queries import KnownToken

CREATED = datetime.fromtimestamp(START, UTC)


def loop(**spec: Any) -> Loop:
    resource = Resource(
        uid="abcdef0123456789",
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
            "model": {"uri": "s3://mw-default/models/digits/1/", "digest": "d1"},
        },
    )

    def one(resource: Resource, world: World) -> Decision:
        tokens = {"f" * 64: KnownToken(None, "")} if world.token else {}
        observed = Observed(
            tuple(world.runs.values()),
            tuple(world.claims.values()),
            world.route,
            tokens,
            world.traffic,
            world.revisions,
        )
        return decide(resource, observed, world.time)

    return Loop(resource, World(room=1000), one)


def hear(it: Loop, *samples: Sample) -> None:
    now = it.world.time.timestamp()
    it.world.traffic = Traffic(samples, START, now)


def every(decision: Decision, kind: type) -> list[Any]:
    return [action for action in decision.actions if isinstance(action, kind)]


AUTOSCALING = {"min": 0, "max": 8, "metrics": {"concurrency": 2}, "idle": 60}


def test_a_request_starts_a_replica_of_an_idle_service() -> None:
    it = loop(autoscaling=AUTOSCALING | {"prewarm": 0})
    it.settle()
    assert it.status["phase"] == "Idle"
    assert it.status["scale"]["replicas"] == 0
    assert it.world.route is not None
    assert it.world.route["state"] == "idle"
    assert not it.world.runs
    now = it.world.time.timestamp()
    hear(it, Sample(now, in_flight=0, queued=1, arrived=1))
    decision = it.step()
    assert every(decision, Reserve)
    assert [(a.before, a.after, a.reason) for a in every(decision, RecordScale)] == [(0, 1, "FromZero")]
    assert every(decision, Emit)[0].reason == "Scaled"
    it.settle()
    assert len(it.world.live) == 1


def test_who_woke_a_service_waits_out_the_first_failed_start() -> None:
    it = loop(autoscaling=AUTOSCALING | {"prewarm": 0})
    it.settle()
    hear(it, Sample(it.world.time.timestamp(), in_flight=0, queued=1, arrived=1))
    it.settle()
    for failures in (1, 2):
        it.world.end(it.world.live[0], RunReason.OUT_OF_MEMORY, 137, "OutOfMemory")
        it.settle()
        assert it.world.route is not None
        assert it.world.route["state"] == ("starting" if failures == 1 else "failed")
        it.pass_time(failures)
        assert len(it.world.live) == 1


def test_more_are_ordered_and_the_decision_is_kept_with_its_numbers() -> None:
    it = loop(autoscaling=AUTOSCALING | {"min": 1})
    it.settle()
    it.world.start(it.world.live[0], ready=True)
    it.settle()
    now = it.world.time.timestamp()
    hear(it, Sample(now, in_flight=2, queued=14, arrived=16))
    decision = it.step()
    kept = every(decision, RecordScale)[0]
    assert (kept.before, kept.after, kept.reason) == (1, 8, "Load")
    assert kept.numbers["metrics"] == [{"metric": "concurrency", "target": 2.0, "total": 16.0, "current": 16.0}]
    assert kept.numbers["ready"] == 1
    it.settle()
    assert len(it.world.live) == 8
    assert it.status["scale"]["replicas"] == 8
    # The numbers of a pass that decides nothing are not written.
    assert not every(it.step(), RecordScale)


def test_replicas_drain_when_they_are_too_many() -> None:
    it = loop(autoscaling=AUTOSCALING | {"initial": 3, "scale_in_stabilization": 0, "scale_in_cooldown": 0})
    it.settle()
    for key in tuple(it.world.live):
        it.world.start(key, ready=True)
    it.settle()
    it.world.traffic = Traffic((), START, START + 86_400)
    decision = it.step()
    assert every(decision, RecordScale)[0].after == 1
    assert every(decision, PublishRoute)
    assert not every(decision, StopRun)  # first the gateways hear of it
    it.pass_time(1.5)
    assert len(it.world.stops) == 2


def test_a_stopped_service_begins_anew() -> None:
    it = loop(autoscaling=AUTOSCALING | {"min": 1})
    it.settle()
    assert it.status["scale"]["replicas"] == 1
    it.resource = replace(it.resource, spec={**it.resource.spec, "stopped": True}, generation=2)
    it.settle()
    assert "scale" not in it.status
    assert it.status["phase"] == "Stopped"


def test_a_service_that_nothing_scales_has_no_decisions() -> None:
    it = loop(replicas=2)
    decision = it.step()
    assert not every(decision, RecordScale)
    assert not every(decision, EnsureRun)
    it.settle()
    assert "scale" not in it.status
