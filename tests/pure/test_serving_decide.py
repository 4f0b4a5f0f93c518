"""Decisions about services, against a model of the world."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulated import START, Loop, World

from modelworks.kernel.decision import Decision
from modelworks.kernel.errors import Invalid
from modelworks.kernel.resource import Ref, Resource
from modelworks.kernel.run import RunReason, Transport
from modelworks.products.serving.decide import decide
from modelworks.products.serving.observe import Observed
from modelworks.products.serving.queries import KnownToken
from modelworks.products.serving.record import Record
from modelworks.products.serving.spec import ServiceSpec

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


def test_a_service_comes_up() -> None:
    it = loop(service(replicas=2))
    it.step()
    assert it.world.token
    it.settle()
    assert it.world.route is not None
    assert it.world.route["state"] == "starting"
    assert len(it.world.live) == 2
    first, second = it.world.live
    make_ready(it, first)
    assert (it.status["phase"], it.status["message"]) == (
        "Starting",
        "1 of 2 replicas ready; replica 1: building environment",
    )
    assert addresses(it) == {address(first)}
    make_ready(it, second)
    assert (it.status["phase"], it.status["message"]) == ("Running", "2 of 2 replicas ready")
    assert it.world.route["token_sha256"] == ["f" * 64]
    assert it.world.route["state"] == "ready"


def test_the_run_of_a_replica() -> None:
    it = up(1)
    run = it.world.specs[it.world.live[0]]
    assert run.command[:6] == ("python", "-m", "modelworks.server", "--processor", "onnx", "--model")
    assert run.listen is not None
    assert run.listen.transport is Transport.UNIX
    assert run.inputs[0].paths == ("/mnt/model", "/eas/workspace/model")
    assert run.log_uri == f"s3://mw-default/logs/{run.key}/"


def test_a_command_gets_a_port() -> None:
    it = loop(service(processor="command", command="serve --port $(PORT)", model=None))
    it.settle()
    run = it.world.specs[it.world.live[0]]
    assert run.command == ("/bin/sh", "-c", "serve --port ${PORT}")
    assert run.listen is not None
    assert run.listen.transport is Transport.PORT


def test_it_waits_for_room_and_says_for_what() -> None:
    it = loop(service(replicas=1), World(room=0))
    it.settle()
    assert it.status["phase"] == "Pending"
    assert it.status["message"].startswith("waits for capacity")


def test_a_crashed_replica_begins_again_with_back_off() -> None:
    it = up(1)
    for failures, delay in ((1, 1.0), (2, 2.0), (3, 4.0)):
        key = it.world.live[0]
        it.world.end(key, RunReason.FAILED, 3, "exited with code 3")
        decision = it.settle()
        assert it.status["phase"] == "Failed"
        assert "exited with code 3" in it.status["message"]
        assert (it.status["reason"] == "CrashLoop") == (failures >= 2)
        assert it.world.live == []
        assert decision.wake_in is not None
        assert decision.wake_in <= delay
        it.pass_time(delay / 2)
        assert it.world.live == []
        it.pass_time(delay / 2)
        assert it.world.live == [f"{key.rsplit('/', 1)[0]}/{failures}"]
    make_ready(it)
    assert it.status["phase"] == "Running"
    it.pass_time(61)
    it.world.end(it.world.live[0], RunReason.FAILED, 3, "exited with code 3")
    assert it.settle().wake_in == pytest.approx(1.0)


def test_one_of_two_crashed_is_degraded() -> None:
    it = up(2)
    first, second = it.world.live
    it.world.end(first, RunReason.OUT_OF_MEMORY, 137, "OutOfMemory: used 2.1Gi of 2Gi")
    it.settle()
    assert it.status["phase"] == "Degraded"
    assert "OutOfMemory: used 2.1Gi of 2Gi" in it.status["message"]
    assert addresses(it) == {address(second)}


def test_an_unhealthy_replica_is_replaced() -> None:
    it = up(1)
    key = it.world.live[0]
    run = it.world.runs[key]
    unhealthy = {"ready": False, "reason": RunReason.UNHEALTHY, "message": "GET /health: timed out"}
    it.world.runs[key] = run.model_copy(update=unhealthy)
    it.settle()
    assert it.world.stops == [key]
    assert it.status["phase"] == "Failed"
    assert it.status["reason"] == "Unhealthy"
    it.pass_time(1)
    assert len(it.world.live) == 1


def test_what_the_platform_stopped_begins_again_at_once() -> None:
    it = up(2)
    for key in it.world.live:
        it.world.end(key, RunReason.STOPPED, 143)
    it.settle()
    assert len(it.world.live) == 2
    assert it.status["phase"] == "Starting"


def test_a_new_revision_replaces_one_by_one_with_a_surge() -> None:
    it = up(2)
    old = set(it.world.live)
    change(it, "d2", replicas=2)
    it.settle()
    assert len(it.world.live) == 3
    assert addresses(it) == {address(key) for key in old}
    lowest = 2
    while set(it.world.live) & old or len(it.world.live) < 2:
        make_ready(it, *(set(it.world.live) - old))
        lowest = min(lowest, len(addresses(it)))
        it.pass_time(1.0)
    make_ready(it)
    assert lowest == 2
    assert it.status["message"] == "2 of 2 replicas ready"
    assert addresses(it) == {address(key) for key in it.world.live}


def test_a_replica_is_unrouted_before_it_is_stopped() -> None:
    it = up(1)
    old = it.world.live[0]
    change(it, "d2", replicas=1)
    it.settle()
    fresh = next(key for key in it.world.live if key != old)
    make_ready(it, fresh)
    assert addresses(it) == {address(fresh)}
    assert it.world.stops == []
    it.pass_time(1.0)
    assert it.world.stops == [old]
    assert old not in it.world.claims


def test_without_room_for_a_surge_one_goes_first() -> None:
    it = up(2, room=2)
    old = set(it.world.live)
    change(it, "d2", replicas=2)
    it.settle()
    assert len(addresses(it)) == 2, "what was given up elsewhere a moment ago may be the room it needs"
    it.pass_time(5.0)
    assert len(addresses(it)) == 1
    it.pass_time(1.0)
    assert len(set(it.world.live) & old) == 1
    assert len(it.world.live) == 2
    it.pass_time(10.0)
    assert len(set(it.world.live) & old) == 1, "the second waits until the first is replaced"
    make_ready(it)
    it.pass_time(1.0)
    make_ready(it)
    assert not set(it.world.live) & old
    assert it.status["message"] == "2 of 2 replicas ready"


def test_room_that_comes_free_in_time_saves_the_old_one() -> None:
    it = up(1, room=1)
    (old,) = it.world.live
    change(it, "d2", replicas=1)
    it.settle()
    it.pass_time(2.0)
    it.world.room = 2
    it.world.admit()
    it.settle()
    (new,) = set(it.world.live) - {old}
    it.pass_time(60.0)
    assert addresses(it) == {address(old)}
    make_ready(it, new)
    assert addresses(it) == {address(new)}


def test_a_failing_revision_leaves_the_old_one_serving() -> None:
    it = up(2)
    old = set(it.world.live)
    change(it, "d2", replicas=2)
    it.settle()
    for delay in (1, 2, 4, 8):
        for key in set(it.world.live) - old:
            it.world.end(key, RunReason.FAILED, 1, "exited with code 1")
        it.settle()
        assert it.status["phase"] == "Degraded"
        assert addresses(it) == {address(key) for key in old}
        it.pass_time(delay)
        assert len(set(it.world.live) - old) == 1
    change(it, "d1", replicas=2)
    it.settle()
    it.pass_time(2)
    assert set(it.world.live) == old
    assert it.status["message"] == "2 of 2 replicas ready"


def fail_all(it: Loop, keys: set[str]) -> None:
    for key in keys & set(it.world.live):
        it.world.end(key, RunReason.FAILED, 1, "exited with code 1")


@pytest.mark.parametrize(("reason", "code"), [(RunReason.LOST, None), (RunReason.STOPPED, 143), (RunReason.FAILED, 1)])
def test_old_replicas_that_end_while_the_new_revision_fails_begin_again(reason: RunReason, code: int | None) -> None:
    it = up(2)
    old = set(it.world.live)
    model = it.world.specs[min(old)].inputs[0].digest
    change(it, "d2", replicas=2)
    it.settle()
    fail_all(it, set(it.world.live) - old)
    it.settle()
    for key in it.world.live:
        it.world.end(key, reason, code)
    it.settle()
    it.pass_time(1)
    again = {key for key in it.world.live if key.split("/")[1] in {one.split("/")[1] for one in old}}
    assert len(again) == 2
    assert not again & old
    assert {it.world.specs[key].inputs[0].digest for key in again} == {model}, "as the old revision was"
    make_ready(it, *again)
    assert addresses(it) == {address(key) for key in again}
    fail_all(it, set(it.world.live) - again)
    it.settle()
    assert it.status["phase"] == "Degraded"
    it.pass_time(4)
    for _ in range(4):
        make_ready(it)
        it.pass_time(1)
    assert not again & set(it.world.live)
    assert it.status["message"] == "2 of 2 replicas ready"
    assert list(it.status["revisions"]) == [it.status["revision"]]


def test_what_never_served_or_fails_is_not_kept_beside_its_successor() -> None:
    it = loop(service(replicas=1))
    it.settle()
    change(it, "d2", replicas=1)
    it.settle()
    it.pass_time(1)
    assert {key.split("/")[1] for key in it.world.live} == {it.status["revision"]}
    make_ready(it)
    fail_all(it, set(it.world.live))
    it.settle()
    change(it, "d3", replicas=1)
    it.settle()
    it.pass_time(5)
    assert {key.split("/")[1] for key in it.world.live} == {it.status["revision"]}
    assert it.status["revisions"] == {}


def test_a_crashed_old_replica_gives_its_room_to_the_new_revision() -> None:
    it = up(1, room=1)
    old = it.world.live[0]
    change(it, "d2", replicas=1)
    it.world.end(old, RunReason.LOST)
    it.settle()
    it.pass_time(10)
    it.pass_time(10)
    assert {key.split("/")[1] for key in it.world.live} == {it.status["revision"]}


def test_a_service_that_is_stopped_forgets_what_served() -> None:
    it = up(1)
    change(it, "d2", replicas=1)
    it.settle()
    assert len(it.status["revisions"]) == 1
    change(it, "d2", replicas=1, stopped=True)
    it.settle()
    it.pass_time(5)
    assert it.status["revisions"] == {}
    change(it, "d2", replicas=1)
    it.settle()
    assert {key.split("/")[1] for key in it.world.live} == {it.status["revision"]}


def test_scaling_replaces_nothing() -> None:
    it = up(1)
    first = it.world.live[0]
    change(it, replicas=3)
    it.settle()
    assert len(it.world.live) == 3
    make_ready(it)
    change(it, replicas=1)
    it.settle()
    it.pass_time(1)
    assert it.world.live == [first]


@pytest.mark.parametrize("spec", [{"replicas": 0}, {"replicas": 2, "stopped": True}])
def test_stop_and_start(spec: dict[str, Any]) -> None:
    it = up(2)
    change(it, **spec)
    it.settle()
    assert it.world.route is not None
    assert it.world.route["state"] == "stopped"
    it.pass_time(1)
    assert it.world.live == []
    assert it.world.claims == {}
    assert it.status["phase"] == "Stopped"
    it.pass_time(5)
    assert it.world.runs == {}
    assert it.settle().wake_in is None
    change(it, replicas=2)
    it.settle()
    make_ready(it)
    assert it.status["phase"] == "Running"


def test_delete_leaves_nothing() -> None:
    it = up(2)
    it.resource = replace(it.resource, deleting=it.world.time)
    for _ in range(6):
        if not it.world.removed:
            it.step()
    assert it.world.removed
    assert it.world.route is None
    assert it.world.emptied == [f"s3://mw-default/logs/{UID}/"]


def test_an_old_token_ends_in_time() -> None:
    resource = replace(up(1).resource)
    tokens = {"a" * 64: KnownToken(), "b" * 64: KnownToken(START + 30)}
    decision = decide(resource, Observed(tokens=tokens), datetime.fromtimestamp(START, UTC))
    assert decision.wake_in is not None
    routes = [action.route for action in decision.actions if hasattr(action, "route")]
    assert routes[0]["token_sha256"] == ["a" * 64, "b" * 64]
    later = decide(resource, Observed(tokens=tokens), datetime.fromtimestamp(START + 31, UTC))
    assert next(a.route for a in later.actions if hasattr(a, "route"))["token_sha256"] == ["a" * 64]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"processor": "onnx"}, "needs model"),
        ({"processor": "python", "code": "s3://x/y"}, "needs entry"),
        ({"processor": "python", "entry": "p.py:P"}, "needs code"),
        ({"processor": "command"}, "needs command"),
        ({"processor": "onnx", "model": "m", "command": "x"}, "command is for the processors command and image"),
        ({"processor": "python", "entry": "p:P", "code": "x"}, "not an entry"),
        ({"processor": "onnx", "model": "m", "network": "host"}, "network: host"),
        ({"processor": "onnx", "model": "m", "readiness": {"path": "health"}}, "begins with '/'"),
        ({"processor": "abacus", "model": "m"}, "'onnx', 'tensorrt', 'sklearn'"),
        ({"processor": "onnx", "model": "m", "rolling": {"max_surge": 0}}, "nothing could ever be replaced"),
        ({"processor": "onnx", "model": "m", "replicas": -1}, "greater than or equal to 0"),
    ],
)
def test_what_a_manifest_may_not_say(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        ServiceSpec.parse(spec, at="spec")
    assert words in str(caught.value)


_EVENTS = st.sampled_from(["ready", "fail", "lose", "stop", "unhealthy", "wait", "crash", "pass", "scale", "revise"])


@settings(deadline=None)
@given(
    replicas=st.integers(0, 3),
    room=st.integers(0, 5),
    events=st.lists(st.tuples(_EVENTS, st.integers(0, 7)), max_size=40),
)
def test_never_more_than_wanted_and_surge_and_always_rest(
    replicas: int, room: int, events: list[tuple[str, int]]
) -> None:
    it = loop(service(replicas=replicas), World(room=room))
    wanted, digest = replicas, "d1"
    for event, number in events:
        live = sorted(it.world.live)
        target = live[number % len(live)] if live else None
        started = len(it.world.starts)
        match event:
            case "ready" if target:
                it.world.start(target, ready=True)
            case "fail" if target:
                it.world.end(target, RunReason.FAILED, 1)
            case "lose" if target:
                it.world.end(target, RunReason.LOST)
            case "stop" if target:
                it.world.end(target, RunReason.STOPPED, 143)
            case "unhealthy" if target:
                unhealthy = {"ready": False, "reason": RunReason.UNHEALTHY}
                it.world.runs[target] = it.world.runs[target].model_copy(update=unhealthy)
            case "wait":
                it.world.now += number
            case "scale":
                wanted = number % 4
                change(it, digest, replicas=wanted)
            case "revise":
                digest = f"d{number % 3}"
                change(it, digest, replicas=wanted)
            case "crash":
                it.step(crash=True)
            case _:
                it.step()
        if len(it.world.starts) > started:
            assert len(it.world.live) <= wanted + SURGE
        assert len([claim for claim in it.world.claims.values() if claim.node]) <= room
    for _ in range(60):
        it.settle()
        for key in it.world.live:
            if key not in it.world.stops:
                it.world.start(key, ready=True)
        it.pass_time(3)
    assert len(it.world.live) == min(wanted, room)
    # Without room for a surge, an older revision that serves is not given up for one that failed.
    kept = room == wanted and it.status["phase"] == "Degraded"
    if wanted and room >= wanted and not kept:
        assert it.status["phase"] == "Running"
        assert len({key.split("/")[1] for key in it.world.live}) == 1
    assert it.world.claims.keys() >= set(it.world.live)
    assert Record.of(it.status).status(it.resource.generation, it.status["path"]) == it.status


@settings(deadline=None)
@given(
    replicas=st.integers(1, 3),
    surge=st.integers(0, 2),
    events=st.lists(st.tuples(st.sampled_from(["fail", "lose", "stop", "wait", "crash", "reboot"]), st.integers(0, 7))),
)
def test_a_failing_rollout_never_ends_the_service(replicas: int, surge: int, events: list[tuple[str, int]]) -> None:
    it = up(replicas, room=replicas + SURGE + surge)
    old = it.status["revision"]
    change(it, "d2", replicas=replicas)

    def settle() -> None:
        """The old revision comes up, the new one never does."""
        for _ in range(12):
            it.settle()
            for key in it.world.live:
                if key.split("/")[1] == old:
                    it.world.start(key, ready=True)
                else:
                    it.world.end(key, RunReason.FAILED, 1)
            assert len(it.world.live) <= replicas + SURGE
            it.pass_time(5)
            assert len(it.world.live) <= replicas + SURGE

    settle()
    for event, number in events:
        live = sorted(it.world.live)
        for key in live if event == "reboot" else live[number : number + 1]:
            match event:
                case "fail":
                    it.world.end(key, RunReason.FAILED, 1)
                case "stop":
                    it.world.end(key, RunReason.STOPPED, 143)
                case "lose" | "reboot":
                    it.world.end(key, RunReason.LOST)
        if event == "wait":
            it.world.now += number
        it.step(crash=event == "crash")
        assert len(it.world.live) <= replicas + SURGE
    it.pass_time(60)
    settle()
    assert len([key for key in it.world.live if key.split("/")[1] == old]) == replicas
    assert len(addresses(it)) == replicas
    assert it.status["phase"] == "Degraded"
    change(it, "d3", replicas=replicas)
    for _ in range(12):
        it.settle()
        for key in it.world.live:
            it.world.start(key, ready=True)
        it.pass_time(3)
    assert {key.split("/")[1] for key in it.world.live} == {it.status["revision"]}
    assert (it.status["phase"], len(it.world.live)) == ("Running", replicas)
    assert list(it.status["revisions"]) == [it.status["revision"]]
