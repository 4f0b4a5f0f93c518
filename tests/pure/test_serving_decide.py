"""Decisions about services, against a model of the world."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.service_loop import UID, address, addresses, change, loop, make_ready, service, up
from tests.simulated import START, World

from modelworks.kernel.errors import Invalid
from modelworks.kernel.run import RunReason, Transport
from modelworks.products.serving.decide import decide
from modelworks.products.serving.observe import Observed
from modelworks.products.serving.queries import KnownToken
from modelworks.products.serving.spec import ServiceSpec


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


def test_folders_are_mounted_at_paths_of_their_own() -> None:
    mounts = {"/data/b": "s3://b/", "/data/a": "s3://a/x/"}
    resource = service(mounts=mounts, replicas=1)
    it = loop(replace(resource, resolved={**resource.resolved, "mounts": mounts}))
    it.settle()
    run = it.world.specs[it.world.live[0]]
    assert [(item.uri, item.paths) for item in run.inputs[1:]] == [
        ("s3://a/x/", ("/data/a",)),
        ("s3://b/", ("/data/b",)),
    ]
    assert "s3://b/" in run.access.read
    for taken in ("/mnt/model", "/eas/workspace/model", "/mnt/v"):
        spec = service(mounts={taken: "s3://b/"}, volumes=[{"name": "v", "mount_path": "/mnt/v"}]).spec
        with pytest.raises(Invalid, match=f"two things are mounted at {taken}"):
            ServiceSpec.parse(spec, at="spec")


PYTHON: dict[str, Any] = {"processor": "python", "entry": "p.py:P", "code": "s3://code/", "model": None}


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ({}, 16),
        ({"concurrency": 3}, 3),
        (PYTHON, 5),
        (PYTHON | {"concurrency": 7}, 7),
        (PYTHON | {"env": {"MW_WORKER_THREADS": "9"}}, 9),
        (PYTHON | {"env": {"MW_WORKER_THREADS": "0"}}, 5),
        (PYTHON | {"batching": {"max_batch_size": 8}}, 16),
    ],
)
def test_a_class_is_given_no_more_than_it_has_threads(spec: dict[str, Any], places: int) -> None:
    it = loop(service(replicas=1, **spec))
    it.settle()
    make_ready(it)
    assert it.world.route is not None
    assert it.world.route["concurrency"] == places
    command = it.world.specs[it.world.live[0]].command
    assert ("--threads" in command) == ("entry" in spec)
    assert "entry" not in spec or command[-2:] == ("--threads", str(places))


@pytest.mark.parametrize(
    ("queue", "size", "grows"), [({}, 1000, True), ({"timeout": 2}, 1000, True), ({"size": 7}, 7, False)]
)
def test_a_queue_without_a_size_may_grow(queue: dict[str, Any], size: int, grows: bool) -> None:
    it = loop(service(replicas=1, queue=queue))
    it.settle()
    assert it.world.route is not None
    assert (it.world.route["queue_size"], it.world.route["queue_grows"]) == (size, grows)


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
        assert it.world.route is not None
        assert it.world.route["state"] == ("starting" if failures == 1 else "failed"), "who calls waits once"
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
