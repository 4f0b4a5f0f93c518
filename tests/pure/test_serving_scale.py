"""The autoscaler, on simulated traffic: what it does, and what it never does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.autoscaling import START, Simulation

from modelworks.kernel.traffic import Traffic
from modelworks.products.serving.scale import State, step
from modelworks.products.serving.scaling_spec import Autoscaling


def scaling(**fields: Any) -> Autoscaling:
    return Autoscaling.parse({"min": 1, "max": 10, "metrics": {"qps": 10}} | fields)


def reversals(counts: Sequence[int]) -> int:
    directions = [b > a for a, b in itertools.pairwise(counts) if a != b]
    return sum(a != b for a, b in itertools.pairwise(directions))


def test_a_service_that_ran_goes_on_with_what_it_has() -> None:
    for ready, first in ((3, 3), (9, 5), (1, 2)):
        found = step(scaling(min=2, max=5), None, (), Traffic(), ready, START)
        assert found.change is not None
        assert (found.change.before, found.change.after) == (ready, first)


def test_it_begins_with_the_least() -> None:
    it = Simulation(scaling(min=2))
    it.look()
    assert it.counts() == [2]
    assert it.changes[0][1].reason == "Initial"
    assert Simulation(scaling(min=1, initial=4)).look().state.replicas == 4
    assert Simulation(scaling(min=0)).look().state.replicas == 1  # prewarm
    assert Simulation(scaling(min=0, prewarm=0)).look().state.replicas == 0


@pytest.mark.parametrize("metric", ["qps", "concurrency"])
def test_ten_times_the_load_is_ordered_in_two_seconds(metric: str) -> None:
    it = Simulation(scaling(metrics={metric: 10 if metric == "qps" else 4}, max=40), startup=30)
    it.run(120, 8, held=3)
    assert it.replicas == 1
    it.run(2, 80, held=30)
    assert it.replicas >= 6
    it.run(4, 80, held=30)
    assert it.replicas in (8, 9, 10)
    # What it orders is not there yet, and that is no reason to order more.
    it.run(24, 80, held=300)
    assert it.replicas in (8, 9, 10)


def test_a_small_difference_is_within_the_tolerance() -> None:
    it = Simulation(scaling(min=1, metrics={"concurrency": 10}))
    it.run(600, 20, held=10.9)
    assert it.counts() == [1]
    it = Simulation(scaling(initial=20, max=20, metrics={"concurrency": 10}))
    it.run(900, 20, held=185)
    assert it.counts() == [20]
    it.run(900, 20, held=175)
    assert it.counts() == [20, 18]


@given(seed=st.integers(0, 10_000), most=st.integers(2, 8), held=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_step_is_not_taken_for_less_than_it_is(seed: int, most: int, held: bool) -> None:
    """Without windows and cooldowns too: means that have not caught up with a step take no replica away."""
    metrics = {"concurrency": 4} if held else {"qps": 20}
    none = dict.fromkeys(
        ("scale_out_stabilization", "scale_in_stabilization", "scale_out_cooldown", "scale_in_cooldown"), "0s"
    )
    simulation = Simulation(scaling(min=0, max=most, initial=1, metrics=metrics, **none), seed=seed)
    simulation.run(30, 2.0, 0 if held else None)
    before = len(simulation.changes)
    simulation.run(12, 20.0 * 2 * most, 8 * most if held else None)
    counts = [simulation.changes[before - 1][1].after, *simulation.counts()[before:]]
    assert counts == sorted(counts), counts
    assert counts[-1] == most


def test_a_lasting_difference_is_acted_on() -> None:
    it = Simulation(scaling(metrics={"concurrency": 4}))
    it.run(20, 100, held=8)
    assert it.replicas == 2


def test_scaling_in_waits_for_the_window() -> None:
    it = Simulation(scaling(scale_in_cooldown=0, scale_in_stabilization=120, max=20))
    it.run(60, 100)
    high = it.replicas
    assert high >= 9
    it.run(110, 20)
    assert it.replicas == high
    it.run(60, 20)
    assert 2 <= it.replicas <= 4


def test_a_cooldown_is_not_a_window() -> None:
    """The window holds back a load that was just higher; the cooldown any second action, however long it was wanted."""
    it = Simulation(scaling(scale_in_cooldown=300, scale_in_stabilization=10, max=20))
    it.run(60, 150)
    it.run(60, 80)
    middle = it.replicas
    assert 8 <= middle <= 11  # the window is short, and there was no action before
    it.run(200, 10)
    assert it.replicas == middle
    assert it.last is not None
    assert "scale_in_cooldown" in it.last.why
    it.run(120, 10)
    assert it.replicas <= 2
    moments = [at for at, change in it.changes if change.after < change.before]
    assert all(b - a >= 300 for a, b in itertools.pairwise(moments))


def test_the_cooldown_of_scaling_out() -> None:
    it = Simulation(scaling(scale_out_cooldown=60, max=40))
    it.run(30, 8)
    it.run(10, 60)
    first = it.replicas
    assert first >= 5
    it.run(40, 200)
    assert it.replicas == first
    assert it.last is not None
    assert "scale_out_cooldown" in it.last.why
    it.run(30, 200)
    assert it.replicas >= 18


def test_the_window_of_scaling_out() -> None:
    it = Simulation(scaling(scale_out_stabilization=30, scale_out_cooldown=0, max=20))
    it.run(60, 8)
    it.run(10, 100)
    it.run(60, 8)
    assert it.counts() == [1]  # it did not last
    it.run(60, 100)
    assert it.replicas >= 9


def test_to_zero_and_back() -> None:
    it = Simulation(scaling(min=0, idle=60), startup=2)
    it.run(30, 5)
    it.run(55, 0)
    assert it.replicas == 1
    it.run(10, 0)
    assert it.counts() == [1, 0]
    assert it.changes[-1][1].reason == "Idle"
    it.run(600, 0)
    assert it.replicas == 0
    it.run(1, 0, held=1)
    assert it.counts() == [1, 0, 1]
    assert it.changes[-1][1].reason == "FromZero"
    it.run(30, 0, held=1)  # a long request keeps it
    it.run(50, 0)
    assert it.replicas == 1
    it.run(20, 0)
    assert it.replicas == 0


def test_from_zero_to_what_it_begins_with() -> None:
    it = Simulation(scaling(min=0, initial=3, prewarm=0, idle=30))
    it.run(40, 0)
    assert it.replicas == 0
    it.run(1, 0, held=50)
    assert it.replicas == 3


def test_many_go_to_zero_after_the_windows() -> None:
    it = Simulation(scaling(min=0, idle=30, scale_in_stabilization=120, scale_in_cooldown=0))
    it.run(60, 60)
    high = it.replicas
    it.run(100, 0)
    assert it.replicas == high
    it.run(60, 0)
    assert it.replicas == 0


@pytest.mark.parametrize("rate", [60, 3])
def test_what_is_not_known_takes_nothing_away(rate: float) -> None:
    it = Simulation(scaling(min=0, idle=60, scale_in_stabilization=60, scale_in_cooldown=0))
    it.run(60, rate)
    high = it.replicas
    it.blind = True
    it.run(1000, 0)
    assert it.replicas >= high
    high = it.replicas
    it.blind, it.known_since = False, it.now
    it.run(30, 0)
    assert it.replicas == high  # the windows begin when it can be seen again


@pytest.mark.parametrize("metric", ["qps", "concurrency"])
def test_what_is_heard_asks_for_replicas_while_another_gateway_is_silent(metric: str) -> None:
    it = Simulation(scaling(min=0, idle=10, metrics={metric: 10}), startup=3)
    it.run(60, 0)
    assert it.replicas == 0
    it.another_silent = True
    it.run(10, 0)
    assert not it.traffic().known(it.now)
    assert it.replicas == 0
    it.run(2, 2, held=1)
    assert it.replicas == 1
    it.run(30, 60, held=60)
    assert it.replicas >= 6
    high = it.replicas
    it.run(1000, 0)
    assert it.replicas == high  # the silent one may have as many
    it.another_silent, it.known_since = False, it.now
    it.run(1000, 0)
    assert it.replicas == 0


@given(
    seed=st.integers(0, 10_000),
    rates=st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.0, 0.5, 5.0, 40.0, 150.0])), max_size=6),
    metrics=st.sampled_from([{"qps": 10}, {"concurrency": 4}, {"qps": 20, "concurrency": 2}]),
    silent=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_of_a_part_of_the_traffic_nothing_but_more_replicas_follows(
    seed: int, rates: list[tuple[int, float]], metrics: dict[str, float], silent: bool
) -> None:
    it = Simulation(scaling(min=0, idle=5, metrics=metrics, scale_in_stabilization=5, scale_in_cooldown=0), seed=seed)
    it.run(40, 12.0)
    it.blind, it.another_silent = silent, True
    it.run(6, 0)
    known = len(it.changes)
    for seconds, rate in rates:
        it.run(seconds, rate)
    assert all(change.after > change.before for _, change in it.changes[known:])
    assert not silent or len(it.changes) == known


def test_cpu_of_the_replicas_that_run() -> None:
    it = Simulation(scaling(metrics={"cpu": 0.5}), startup=20, usage={"cpu": 1.9})
    it.run(5, 5)
    assert it.replicas == 1  # none runs yet
    it.run(16, 5)
    assert it.replicas == 2
    it.run(10, 5)
    assert it.replicas == 2  # the one that was ordered does not run yet
    it.usage = {}
    it.run(600, 0.1)
    assert it.replicas == 2


def test_the_largest_of_several_metrics_counts() -> None:
    it = Simulation(scaling(metrics={"qps": 100, "concurrency": 2}))
    it.run(30, 20, held=12)
    assert it.replicas == 6


def test_new_bounds_hold_at_once() -> None:
    it = Simulation(scaling(max=20))
    it.run(60, 100)
    it.scaling = scaling(max=4)
    it.look()
    assert it.replicas == 4
    assert it.changes[-1][1].reason == "Bounds"
    it.scaling = scaling(min=6)
    it.look()
    assert it.replicas == 6


def test_a_schedule_is_a_floor() -> None:
    # START is 2027-01-15 08:00:00 UTC.
    plan = [
        {"name": "morning", "schedule": "0 1 8 * * *", "replicas": 5},
        {"name": "evening", "schedule": "0 3 8 * * *", "replicas": 0},
    ]
    it = Simulation(scaling(schedules=plan, scale_in_stabilization=30, scale_in_cooldown=0))
    it.run(55, 2)
    assert it.replicas == 1
    it.run(10, 2)
    assert it.replicas == 5
    assert (it.changes[-1][1].reason, it.changes[-1][1].numbers["schedule"]) == ("Schedule", "morning")
    it.run(110, 2)
    assert it.replicas == 5
    it.run(40, 2)
    assert it.replicas == 1


def test_the_state_is_not_written_every_second() -> None:
    it = Simulation(scaling(metrics={"qps": 10}), seed=3)
    it.run(120, 33)
    written, before = 0, it.state
    for _ in range(300):
        it.run(1, 33)
        written += it.state != before
        before = it.state
    assert written <= 60


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rate=st.floats(0.3, 80),
    seconds=st.floats(0.005, 1.0),
    metric=st.sampled_from([{"qps": 10}, {"qps": 2.5}, {"concurrency": 2}, {"qps": 7, "concurrency": 3}]),
    startup=st.sampled_from([0.0, 3.0, 45.0]),
    least=st.integers(0, 2),
)
def test_a_steady_load_turns_the_scale_round_once_at_most(
    seed: int, rate: float, seconds: float, metric: dict[str, float], startup: float, least: int
) -> None:
    it = Simulation(scaling(metrics=metric, min=least, max=60), seconds=seconds, startup=startup, seed=seed)
    it.run(600, rate)
    assert reversals(it.counts()) <= 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    least=st.integers(0, 4),
    more=st.integers(0, 6),
    phases=st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.5, 5.0, 80.0, 900.0]), st.booleans())),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "prewarm": st.integers(0, 1),
            "idle": st.sampled_from([1, 20, 300]),
            "scale_in_stabilization": st.sampled_from([0, 7, 300]),
            "scale_out_stabilization": st.sampled_from([0, 7]),
            "scale_in_cooldown": st.sampled_from([0, 40]),
            "scale_out_cooldown": st.sampled_from([0, 40]),
        },
    ),
)
def test_the_bounds_always_hold(
    seed: int, least: int, more: int, phases: list[tuple[int, float, bool]], fields: dict[str, Any]
) -> None:
    highest = max(least + more, 1)
    it = Simulation(scaling(min=least, max=highest, **fields), seed=seed, startup=3)
    it.look()
    for seconds, rate, blind in phases:
        it.blind = blind
        before = it.replicas
        it.run(seconds, rate)
        if blind and seconds <= 5:
            assert it.replicas >= before or it.replicas == before
    assert all(least <= count <= highest for count in it.counts())
    cooldown = it.scaling.scale_in_cooldown
    load = [at for at, change in it.changes if change.after < change.before and change.reason == "Load"]
    assert all(b - a >= cooldown - 0.01 for a, b in itertools.pairwise(load))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), low=st.floats(1, 9), times=st.sampled_from([5, 10, 20]))
def test_a_step_up_acts(seed: int, low: float, times: int) -> None:
    it = Simulation(scaling(max=60), seed=seed, startup=10)
    it.run(90, low)
    before = it.replicas
    it.run(75, low * times)
    assert it.replicas >= max(low * times / 10 * 0.75, before)


def test_the_state_survives_a_change_of_the_code_that_reads_it() -> None:
    assert State.of({}) is None
    assert State.of({"replicas": 3}) == State(3, 0.0)
    it: Callable[..., State] = replace
    assert it(State(3, 0.0), replicas=4).document() == {"replicas": 4, "active_at": 0.0}
