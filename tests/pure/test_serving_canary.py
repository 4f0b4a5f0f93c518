"""A canary beside the stable revision: its replicas, its share, its promotion and its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service_loop import addresses, fail_all, loop, make_ready, service
from tests.simulated import Loop, World

from modelworks.kernel.errors import Conflict
from modelworks.products.serving.changes import canary_change, former, rolled_back
from modelworks.products.serving.record import Record


def configured(it: Loop, canary: dict[str, Any] | None, digest: str = "d2", stable: str = "d1", **spec: Any) -> None:
    """As apply leaves a service with this canary, whose model has ``digest``."""
    fresh = service(stable, **spec)
    resolved = dict(fresh.resolved)
    if canary is not None:
        fresh = replace(fresh, spec={**fresh.spec, "canary": canary})
        resolved["canary"] = service(digest, **spec).resolved
    generation = it.resource.generation + 1
    it.resource = replace(it.resource, spec=fresh.spec, resolved=resolved, generation=generation)


def up(replicas: int, canary: dict[str, Any] | None = None, room: int = 1000) -> Loop:
    it = loop(service(replicas=replicas), World(room=room))
    it.settle()
    make_ready(it)
    if canary is not None:
        configured(it, canary, replicas=replicas)
        it.settle()
        make_ready(it)
    return it


def by_revision(it: Loop) -> dict[str, int]:
    assert it.world.route is not None
    found: dict[str, int] = {}
    for replica in it.world.route["replicas"]:
        found[replica["revision"]] = found.get(replica["revision"], 0) + 1
    return found


def beside(it: Loop) -> str:
    return str(it.status["canary"]["revision"])


@pytest.mark.parametrize(
    ("canary", "count"),
    [({"weight": 10}, 1), ({"weight": 50}, 2), ({"weight": 60}, 3), ({"replicas": 4}, 4), ({"mirror": 20}, 1)],
)
def test_a_canary_runs_beside_with_its_share(canary: dict[str, Any], count: int) -> None:
    it = up(4, {"model": "digits:2", **canary})
    stable = it.status["revision"]
    assert by_revision(it) == {stable: 4, beside(it): count}
    assert it.world.route is not None
    weight = canary.get("weight", 0)
    assert it.world.route["weights"] == {stable: 100 - weight, beside(it): weight}
    mirror = {"revision": beside(it), "percent": 20} if "mirror" in canary else None
    assert it.world.route["mirror"] == mirror
    assert it.status["phase"] == "Running"
    assert f"canary {beside(it)}" in it.status["message"]
    assert set(it.world.revisions) == {stable, beside(it)}


def test_another_weight_replaces_no_process() -> None:
    it = up(2, {"model": "digits:2", "weight": 10})
    before = set(it.world.live)
    configured(it, {"model": "digits:2", "weight": 50}, replicas=2)
    it.settle()
    it.pass_time(5)
    assert set(it.world.live) == before
    assert it.world.route is not None
    assert it.world.route["weights"][beside(it)] == 50


def test_its_variables_are_merged() -> None:
    it = loop(service(replicas=1))
    configured(it, {"weight": 10, "env": {"B": "2"}}, digest="d1", replicas=1, env={"A": "1", "B": "1"})
    it.settle()
    found = {spec.env["B"]: spec.env["A"] for spec in it.world.specs.values()}
    assert found == {"1": "1", "2": "1"}


def test_a_canary_that_is_promoted_keeps_its_replicas_and_never_dips() -> None:
    it = up(3, {"model": "digits:2", "weight": 50})
    canary, kept = beside(it), {key for key in it.world.live if key.split("/")[1] == beside(it)}
    change = canary_change(it.resource.spec, it.resource.resolved, {"weight": 100})
    assert change.resolved is not None
    it.resource = replace(it.resource, spec=change.spec, resolved=change.resolved)
    it.settle()
    for _ in range(20):
        assert len(addresses(it)) >= 3
        make_ready(it)
        assert len(addresses(it)) >= 3
        it.pass_time(1)
    assert by_revision(it) == {canary: 3}
    assert it.status["revision"] == canary
    assert kept <= set(it.world.live)
    assert not kept & set(it.world.stops)
    assert it.world.route is not None
    assert it.world.route["weights"] == {}
    assert "canary" not in it.status


def test_a_canary_at_weight_zero_ends() -> None:
    it = up(2, {"model": "digits:2", "weight": 50})
    stable = set(addresses(it))
    change = canary_change(it.resource.spec, it.resource.resolved, {"weight": 0})
    assert change.resolved is not None
    assert "canary" not in change.spec
    it.resource = replace(it.resource, spec=change.spec, resolved=change.resolved)
    it.settle()
    assert len(addresses(it)) == 2
    assert addresses(it) < stable
    it.pass_time(1)
    assert len(it.world.live) == 2
    it.pass_time(10)
    assert it.status["message"] == "2 of 2 replicas ready"


def test_a_canary_ends_at_once_also_while_a_stable_replica_is_down() -> None:
    it = up(2, {"model": "digits:2", "weight": 50})
    canary = beside(it)
    fail_all(it, {next(key for key in it.world.live if key.split("/")[1] != canary)})
    configured(it, None, replicas=2)
    it.settle()
    assert canary not in by_revision(it)


def test_a_canary_that_fails_leaves_the_service_whole() -> None:
    it = up(2, {"model": "digits:2", "weight": 50})
    fail_all(it, {key for key in it.world.live if key.split("/")[1] == beside(it)})
    it.settle()
    assert it.status["phase"] == "Degraded"
    assert f"canary {beside(it)}: replica 0: exited with code 1" in it.status["message"]
    assert len(addresses(it)) == 2


def test_a_stopped_service_stops_its_canary() -> None:
    it = up(1, {"model": "digits:2", "weight": 50})
    configured(it, {"model": "digits:2", "weight": 50}, replicas=1, stopped=True)
    it.settle()
    it.pass_time(2)
    assert it.world.live == []
    assert it.status["phase"] == "Stopped"


def test_a_new_stable_revision_shares_what_the_canary_leaves() -> None:
    it = up(3, {"model": "digits:2", "weight": 10})
    old = it.status["revision"]
    configured(it, {"model": "digits:2", "weight": 10}, stable="d3", replicas=3)
    it.settle()
    new = it.status["revision"]
    make_ready(it)
    assert it.world.route is not None
    weights = it.world.route["weights"]
    assert sum(weights.values()) == 100
    assert weights[beside(it)] == 10
    assert weights[old] > weights[new] > 0


def test_changes_of_a_canary() -> None:
    spec: dict[str, Any] = {"processor": "onnx", "model": "m:1", "env": {"A": "1"}}
    with pytest.raises(Conflict, match="no canary"):
        canary_change(spec, {}, {"weight": 10})
    begun = canary_change(spec, {"model": 1}, {"model": "m:2", "weight": 10})
    assert begun.spec["canary"] == {"model": "m:2", "weight": 10}
    assert (begun.resolved, begun.canary_only) == (None, True)
    facts = {"model": 1, "canary": {"model": 2}}
    moved = canary_change(begun.spec, facts, {"weight": 50})
    assert (moved.spec["canary"], moved.resolved) == ({"model": "m:2", "weight": 50}, facts)
    done = canary_change(begun.spec, {**facts, "resumed": 1}, {"weight": 100})
    assert done.spec == {"processor": "onnx", "model": "m:2", "env": {"A": "1"}}
    assert done.resolved == {"model": 2, "resumed": 1}


def test_a_rollback_restores_what_a_revision_is_and_keeps_what_it_is_not() -> None:
    now = {"processor": "onnx", "model": "m:2", "replicas": 5, "canary": {"weight": 1, "model": "m:3"}}
    old = {"processor": "onnx", "model": "m:1", "replicas": 1}
    change = rolled_back(now, {"model": 2, "canary": {}, "capture": "s3://new/"}, old, {"model": 1}, "said")
    assert change.spec == {"processor": "onnx", "model": "m:1", "replicas": 5}
    assert change.resolved == {"model": 1, "capture": "s3://new/"}


def test_the_revision_before_is_the_one_asked_for_before() -> None:
    assert former(["a"], "a") is None
    assert former(["a", "b"], "b") == "a"
    assert former(["a", "b"], "c") == "b", "no pass has seen the present one yet"
    assert former(["a", "b", "a"], "a") == "b"


_STEPS = st.sampled_from(["ready", "fail", "wait", "crash", "weight", "revise", "remove", "promote", "scale"])


@settings(deadline=None, max_examples=60)
@given(events=st.lists(st.tuples(_STEPS, st.integers(0, 9)), max_size=25))
def test_whatever_happens_to_a_canary_the_service_rests_as_its_spec_says(events: list[tuple[str, int]]) -> None:
    it = up(2)
    stable, canary, weight, replicas = "d1", "", 0, 2
    for event, number in events:
        live = sorted(it.world.live)
        match event:
            case "ready" if live:
                it.world.start(live[number % len(live)], ready=True)
            case "fail" if live:
                fail_all(it, {live[number % len(live)]})
            case "wait":
                it.world.now += number
            case "weight":
                canary, weight = canary or "d2", number * 10
            case "revise":
                stable = f"d{number % 3}"
            case "remove":
                canary = ""
            case "promote" if canary:
                stable, canary = canary, ""
            case "scale":
                replicas = 1 + number % 3
        overlay = {"model": "digits:2", "weight": weight} if canary else None
        configured(it, overlay, canary, stable, replicas=replicas)
        it.step(crash=event == "crash")
        assert len(it.world.live) <= 2 * (3 + 3) + 2
    for _ in range(40):
        it.settle()
        for key in it.world.live:
            it.world.start(key, ready=True)
        it.pass_time(3)
    assert it.status["phase"] == "Running"
    own = it.status["revision"]
    expected = {own: replicas}
    if canary and canary != stable:
        expected[beside(it)] = max(1, -(-replicas * weight // 100))
    assert by_revision(it) == expected
    assert len(it.world.live) == sum(expected.values())
    assert Record.of(it.status).status(it.resource.generation, it.status["path"]) == it.status
