"""Replicas whose room is to be given back: another one serves before they go, and they stay while there is none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service_loop import SURGE, address, addresses, change, fail_all, make_ready, service, up
from tests.simulated import Loop

from modelworks.kernel.run import RunReason


def finish(it: Loop) -> None:
    for _ in range(12):
        make_ready(it)
        it.pass_time(5)


def test_another_replica_serves_before_it_goes() -> None:
    it = up(1)
    (old,) = it.world.live
    it.world.evict(old, 180.0, "node node-a is drained: new disks")
    it.settle()
    (new,) = set(it.world.live) - {old}
    assert addresses(it) == {address(old)}
    assert it.status["phase"] == "Running"
    assert it.status["message"] == "1 of 1 replicas ready; replica 0 moves, since node node-a is drained: new disks"
    make_ready(it, new)
    assert addresses(it) == {address(new)}
    assert it.world.stops == []
    it.pass_time(1.0)
    assert it.world.stops == [old]
    assert old not in it.world.claims
    assert it.status["message"] == "1 of 1 replicas ready"


def test_those_of_a_whole_node_move_one_by_one() -> None:
    it = up(3)
    old = set(it.world.live)
    for key in old:
        it.world.evict(key, 180.0)
    it.settle()
    assert "replicas 0, 1, 2 move, since node node-a is drained" in it.status["message"]
    lowest = 3
    for _ in range(10):
        assert len(it.world.live) <= 3 + SURGE
        lowest = min(lowest, len(addresses(it)))
        make_ready(it)
        it.pass_time(1.0)
    assert lowest == 3
    assert not old & set(it.world.live)
    assert it.status["message"] == "3 of 3 replicas ready"


def test_without_room_it_stays_and_says_so() -> None:
    it = up(2, room=2)
    old = it.world.live[0]
    it.world.evict(old, 10.0)
    for _ in range(20):
        it.pass_time(10.0)
        assert len(addresses(it)) == 2
    assert it.world.stops == []
    assert it.status["phase"] == "Running"
    assert it.status["message"] == (
        "2 of 2 replicas ready; replica 0 moves, since node node-a is drained; until there is room elsewhere it serves"
        " on: waits for capacity: 2 of 2 places are taken"
    )
    it.world.room = 3
    it.pass_time(1.0)
    finish(it)
    assert old not in it.world.live
    assert it.status["message"] == "2 of 2 replicas ready"


def test_one_that_fails_elsewhere_leaves_the_old_one_serving() -> None:
    it = up(1)
    (old,) = it.world.live
    it.world.evict(old, 180.0)
    it.settle()
    for delay in (1, 2, 4):
        fail_all(it, set(it.world.live) - {old})
        it.settle()
        assert it.status["phase"] == "Degraded"
        assert "replica 0 moves, since node node-a is drained, but" in it.status["message"]
        assert "exited with code 1" in it.status["message"]
        assert addresses(it) == {address(old)}
        it.pass_time(delay)
    finish(it)
    assert old not in it.world.live
    assert it.status["phase"] == "Running"


def test_one_that_ends_before_it_was_replaced_is_not_begun_where_it_was() -> None:
    it = up(1, room=1)
    (old,) = it.world.live
    it.world.evict(old, 10.0)
    it.settle()
    it.world.end(old, RunReason.LOST)
    it.settle()
    it.pass_time(1.0)
    (new,) = it.world.live
    assert new != old
    make_ready(it)
    assert it.status["message"] == "1 of 1 replicas ready"


def test_one_that_has_not_served_yet_begins_where_it_is() -> None:
    it = up(1)
    change(it, replicas=2)
    it.settle()
    (starting,) = (key for key in it.world.live if not it.world.runs[key].ready)
    it.world.evict(starting, 180.0)
    it.settle()
    assert len(it.world.live) == 2
    finish(it)
    assert starting not in it.world.live
    assert len(it.world.live) == 2


def test_a_service_that_is_stopped_or_smaller_waits_for_nobody() -> None:
    it = up(2, room=2)
    first, second = sorted(it.world.live)
    it.world.evict(second, 180.0)
    it.settle()
    change(it, replicas=1)
    it.settle()
    it.pass_time(2.0)
    assert it.world.live == [first]
    it.world.evict(first, 180.0)
    it.settle()
    change(it, replicas=1, stopped=True)
    it.settle()
    it.pass_time(2.0)
    assert it.world.live == []
    assert it.status["phase"] == "Stopped"


_EVENTS = st.lists(
    st.tuples(st.sampled_from(["evict", "fail", "lose", "ready", "crash", "wait", "update"]), st.integers(0, 3)),
    max_size=14,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2), _EVENTS)
def test_it_never_serves_less_for_moving_and_always_arrives(
    replicas: int, spare: int, events: list[tuple[str, int]]
) -> None:
    it = up(replicas, room=replicas + spare)
    digest = 1
    for event, number in events:
        before, harmed = addresses(it), event in ("fail", "lose", "update")
        live = sorted(it.world.live)
        chosen = live[number % len(live)] if live else ""
        match event:
            case "evict" if chosen:
                it.world.evict(chosen, 30.0)
            case "fail" if chosen:
                it.world.end(chosen, RunReason.FAILED, 1)
            case "lose" if chosen:
                it.world.end(chosen, RunReason.LOST)
            case "ready" if chosen:
                it.world.start(chosen, ready=True)
            case "update":
                digest += 1
                fresh = service(f"d{digest}", replicas=replicas)
                change(it, f"d{digest}", **fresh.spec)
        if event == "wait":
            it.world.now += 3 * number
        it.step(crash=event == "crash")
        assert len(it.world.live) <= replicas + SURGE
        if not harmed and digest == 1:
            assert len(addresses(it)) >= min(len(before), replicas)
    it.world.room = 1000
    for _ in range(25):
        it.pass_time(61.0)
        make_ready(it)
    assert not [key for key in it.world.live if it.world.claims[key].evict_at is not None]
    assert (it.status["phase"], it.status["message"]) == ("Running", f"{replicas} of {replicas} replicas ready")
    assert len(addresses(it)) == len(it.world.live) == replicas
