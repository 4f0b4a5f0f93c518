from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelworks.supervisor import policy
from modelworks.supervisor.policy import Need, Phase, Seen

NEEDS = {
    "postgres": Need("postgres"),
    "weed": Need("weed"),
    "migrate": Need("migrate", ("postgres",), step=True),
    "controller": Need("controller", ("migrate",)),
    "gateway": Need("gateway"),
}
UP = Seen(running=True, ready_since=1.0, was_ready=True)

times = st.floats(min_value=0, max_value=1e6)


@st.composite
def seens(draw: st.DrawFn) -> Seen:
    kind = draw(st.sampled_from(["never", "starting", "ready", "ended", "done"]))
    failures = draw(st.integers(0, 50))
    if kind == "starting":
        return Seen(running=True, failures=failures)
    if kind == "ready":
        return Seen(running=True, ready_since=draw(times), failures=failures, was_ready=True)
    if kind == "ended":
        return Seen(exited_at=draw(times), failures=max(1, failures), was_ready=draw(st.booleans()))
    return Seen(done=kind == "done")


worlds = st.fixed_dictionaries({}, optional={name: seens() for name in NEEDS})


def test_independent_processes_start_together_and_the_others_wait() -> None:
    assert policy.plan(NEEDS, {}, 0.0).start == ("postgres", "weed", "gateway")


def test_a_step_runs_once_and_lets_its_followers_start() -> None:
    seen = {"postgres": UP, "weed": UP, "gateway": UP}
    assert policy.plan(NEEDS, seen, 2.0).start == ("migrate",)
    assert policy.plan(NEEDS, seen | {"migrate": Seen(done=True)}, 2.0).start == ("controller",)


def test_what_is_not_known_yet_is_waited_for() -> None:
    assert policy.plan({"controller": NEEDS["controller"]}, {}, 0.0).start == ()


@given(worlds, times)
def test_nothing_that_runs_or_is_done_is_started(seen: dict[str, Seen], now: float) -> None:
    for name in policy.plan(NEEDS, seen, now).start:
        one = seen.get(name, Seen())
        assert not one.running
        assert not one.done
        assert all(seen[other].usable for other in NEEDS[name].after)


@given(worlds, times)
def test_every_unit_is_started_awaited_or_blocked(seen: dict[str, Seen], now: float) -> None:
    """Nothing is forgotten: what does not run is due now, due at the wake-up at the latest, or waits for another."""
    plan = policy.plan(NEEDS, seen, now)
    assert plan.wake_at is None or plan.wake_at > now
    for name, need in NEEDS.items():
        one = seen.get(name, Seen())
        blocked = not all(seen.get(other, Seen()).usable for other in need.after)
        if not (one.running or one.done or blocked or name in plan.start):
            assert plan.wake_at is not None
            assert one.exited_at is not None
            assert plan.wake_at <= one.exited_at + policy.delay(one.failures)


@given(worlds, times)
def test_at_the_wake_up_something_is_due(seen: dict[str, Seen], now: float) -> None:
    plan = policy.plan(NEEDS, seen, now)
    if plan.wake_at is not None:
        assert set(policy.plan(NEEDS, seen, plan.wake_at).start) > set(plan.start)


@given(st.integers(-3, 10_000))
def test_delays_grow_from_a_fifth_of_a_second_to_half_a_minute(failures: int) -> None:
    assert 0.0 <= policy.delay(failures) <= policy.delay(failures + 1) <= policy.LONGEST_DELAY
    assert failures < 1 or policy.delay(failures) >= policy.FIRST_DELAY


def test_who_lived_well_starts_again_at_once_and_who_ends_right_after_its_start_waits_longer_each_time() -> None:
    assert policy.failures_after(7, ready_since=100.0, now=109.0) == 8
    assert policy.failures_after(7, ready_since=100.0, now=110.0) == 0
    assert policy.failures_after(7, ready_since=None, now=1e9) == 8
    ended = Seen(exited_at=110.0, failures=0, was_ready=True)
    assert policy.plan({"postgres": NEEDS["postgres"]}, {"postgres": ended}, 110.0).start == ("postgres",)


def test_an_end_that_was_asked_for_is_no_failure_but_one_right_after_the_start_is() -> None:
    assert policy.failures_after(3, ready_since=100.0, now=101.0, good=True) == 0
    assert policy.failures_after(3, ready_since=100.0, now=100.1, good=True) == 4
    assert policy.failures_after(3, ready_since=None, now=1e9, good=True) == 4
    ended = Seen(exited_at=5.0, failures=0, was_ready=True)
    assert policy.plan({"gateway": NEEDS["gateway"]}, {"gateway": ended}, 5.0).start == ("gateway",)


def test_the_first_start_fails_after_three_ends_but_a_process_that_was_ready_is_waited_for() -> None:
    ended = Seen(exited_at=5.0, failures=3)
    gave_up = policy.give_up(NEEDS, {"weed": ended}, began=0.0, now=6.0)
    assert gave_up == policy.GiveUp("weed", "weed ended 3 times")
    was_ready = Seen(exited_at=5.0, failures=3, was_ready=True)
    assert policy.give_up(NEEDS, {"weed": was_ready}, began=0.0, now=6.0) is None


def test_when_time_is_up_the_one_that_is_silent_is_named_not_those_that_wait_for_it() -> None:
    seen = {"postgres": Seen(running=True), "weed": UP, "gateway": UP}
    assert policy.give_up(NEEDS, seen, began=0.0, now=policy.STARTUP_TIMEOUT - 1) is None
    gave_up = policy.give_up(NEEDS, seen, began=0.0, now=policy.STARTUP_TIMEOUT)
    assert gave_up is not None
    assert gave_up.name == "postgres"


@given(worlds, times)
def test_the_phase_agrees_with_what_is_seen(seen: dict[str, Seen], now: float) -> None:
    plan = policy.plan(NEEDS, seen, now)
    for name, need in NEEDS.items():
        one = seen.get(name, Seen())
        phase = policy.phase(need, one, seen)
        assert (phase in (Phase.READY, Phase.DONE)) == one.usable
        assert name not in plan.start or phase in (Phase.WAITING, Phase.BACKOFF)
    ready = [policy.phase(need, seen.get(name, Seen()), seen) for name, need in NEEDS.items()]
    assert policy.all_usable(NEEDS, seen) == all(phase in (Phase.READY, Phase.DONE) for phase in ready)
