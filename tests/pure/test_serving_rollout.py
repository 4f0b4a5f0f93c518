"""How one revision of a service takes over from another, against a model of the world."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service_loop import SURGE, address, addresses, change, fail_all, loop, make_ready, service, up
from tests.simulated import Loop, World

from modelworks.kernel.run import RunReason
from modelworks.products.serving.record import Record


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


def come_up(it: Loop, turns: int, at_rest: Callable[[], bool]) -> None:
    """Every replica becomes ready, for so many turns of three seconds; but soon no more when it rests and stays so."""
    left = turns
    while left:
        it.settle()
        for key in it.world.live:
            it.world.start(key, ready=True)
        it.pass_time(3)
        left -= 1
        if left > 4 and at_rest():
            left = 4


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

    def at_rest() -> bool:
        rolled = len({key.split("/")[1] for key in it.world.live}) <= 1 and it.status["phase"] != "Degraded"
        return len(it.world.live) == min(wanted, room) and (room < wanted or rolled)

    come_up(it, 60, at_rest)
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
        for _ in range(6):
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
    come_up(it, 12, lambda: {key.split("/")[1] for key in it.world.live} == {it.status["revision"]})
    assert {key.split("/")[1] for key in it.world.live} == {it.status["revision"]}
    assert (it.status["phase"], len(it.world.live)) == ("Running", replicas)
    assert list(it.status["revisions"]) == [it.status["revision"]]


def revisions(it: Loop) -> dict[str, int]:
    """Live replicas by revision."""
    found: dict[str, int] = {}
    for key in it.world.live:
        name = key.split("/")[1]
        found[name] = found.get(name, 0) + 1
    return found


def test_a_larger_surge_replaces_more_at_once() -> None:
    it = up(3)
    change(it, "d2", replicas=3, rolling={"max_surge": 3})
    it.settle()
    assert len(it.world.live) == 6
    make_ready(it)
    it.pass_time(1)
    assert len(it.world.live) == 3
    assert it.status["message"] == "3 of 3 replicas ready"


def test_with_max_unavailable_so_many_go_first() -> None:
    it = up(3, room=3)
    old = set(it.world.live)
    rolling = {"max_surge": 0, "max_unavailable": 1}
    change(it, "d2", replicas=3, rolling=rolling)
    it.settle()
    assert len(addresses(it)) == 2
    lowest = 2
    for _ in range(12):
        assert len(it.world.live) <= 3
        make_ready(it)
        lowest = min(lowest, len(addresses(it)))
        it.pass_time(1)
    assert (lowest, len(addresses(it))) == (2, 3)
    assert not old & set(it.world.live)


def test_without_room_for_a_surge_it_says_so() -> None:
    it = up(2, room=2)
    change(it, "d2", replicas=2)
    it.settle()
    it.pass_time(5)
    assert "one at a time, since there is no room for a surge" in it.status["message"]


def test_more_replicas_while_the_new_revision_fails_are_of_the_old_one() -> None:
    it = up(2)
    old = it.status["revision"]
    change(it, "d2", replicas=2)
    it.settle()
    fail_all(it, {key for key in it.world.live if key.split("/")[1] != old})
    it.settle()
    change(it, "d2", replicas=4)
    for _ in range(8):
        it.settle()
        make_ready(it, *(key for key in it.world.live if key.split("/")[1] == old))
        fail_all(it, {key for key in it.world.live if key.split("/")[1] != old})
        it.pass_time(5)
    assert revisions(it)[old] == 4
    assert len(it.world.live) <= 4 + SURGE
    it.pass_time(60)
    for _ in range(12):
        make_ready(it)
        it.pass_time(3)
    assert revisions(it) == {it.status["revision"]: 4}


def test_a_revision_that_failed_once_is_not_kept_waiting_for_the_old_ones_room() -> None:
    it = up(2, room=3)
    old = it.status["revision"]
    change(it, "d2", replicas=2)
    it.settle()
    fail_all(it, {key for key in it.world.live if key.split("/")[1] != old})
    it.world.room = 2  # somebody else took it
    it.settle()
    it.pass_time(10)
    assert revisions(it) == {old: 2}
    it.pass_time(31)
    for _ in range(10):
        make_ready(it)
        assert len(addresses(it)) >= 1
        it.pass_time(6)
    assert revisions(it) == {it.status["revision"]: 2}
