"""Where tasks go, and what follows from an attempt: no limit is exceeded, shares hold, each task comes to an end."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from modelworks.courier.lanes import Lane, Lanes
from modelworks.courier.outcome import Answer, Broken, Result, Retry, delay, follows
from modelworks.gateway.hung import hanging
from modelworks.gateway.table import Replica


def replica(number: int, revision: str, limit: int | None = None, slow: bool = False) -> Replica:
    return Replica(f"r{number}", f"unix:/r{number}", revision, limit, slow)


REPLICAS = st.lists(
    st.builds(replica, st.integers(0, 5), st.sampled_from("ab"), st.none() | st.integers(1, 4), st.booleans()),
    max_size=5,
    unique_by=lambda one: one.id,
)
WEIGHTS = st.sampled_from([{}, {"a": 90, "b": 10}, {"a": 100, "b": 0}, {"a": 50, "b": 50}, {"gone": 100}])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), REPLICAS, WEIGHTS),
        st.just(("take",)),
        st.tuples(st.just("put"), st.integers(0, 50), st.booleans()),
    ),
    max_size=80,
)


@given(STEPS, st.integers(1, 6), st.integers(1, 3))
def test_no_limit_is_exceeded(steps: list[tuple[object, ...]], concurrency: int, couriers: int) -> None:
    lanes, taken = Lanes(), list[Lane]()
    for step in steps:
        match step:
            case ("update", list() as found, dict() as weights):
                lanes.update(found, concurrency, weights, couriers)
            case ("take",):
                if (lane := lanes.take(0.0)) is not None:
                    assert not lane.removed
                    assert lane.in_flight <= min(lane.limit, lane.window)
                    taken.append(lane)
            case ("put", int() as index, bool() as good):
                if taken:
                    lanes.put(taken.pop(index % len(taken)), good=good)
        for lane in lanes.lanes:
            assert lane.in_flight == taken.count(lane)
            assert 1 <= lane.limit <= max(1, min(concurrency, lane.replica.limit or concurrency) // couriers)


def test_who_hangs_gets_nothing_until_it_speaks_and_then_one_task_at_a_time() -> None:
    lanes = Lanes()
    lanes.update([replica(1, "a")], 4, {}, 1)
    lane = lanes.take(0.0)
    assert lane is not None
    assert lane.silent_since is None, "a place that is taken is no request"
    lane.asked(10.0)
    assert lane.silent_since == 10.0
    assert hanging(lanes.lanes, 40.0, 30.0) == []
    assert hanging(lanes.lanes, 40.1, 30.0) == [lane]
    lane.hung = True
    assert lanes.take(41.0) is None
    lane.said(42.0)
    assert not lane.hung
    assert lane.silent_since == 42.0
    lane.ended(43.0, reached=True)
    lanes.put(lane, good=True)
    assert (lane.window, lane.silent_since) == (2, None)


def test_requests_that_end_for_want_of_an_answer_do_not_hide_the_silence() -> None:
    lanes = Lanes()
    lanes.update([replica(1, "a")], 1, {}, 1)
    (lane,) = lanes.lanes
    for begin in (0.0, 10.0):
        lane.asked(begin)
        lane.ended(begin + 10.0, reached=True)
    lane.asked(30.0)
    assert lane.silent_since == 10.0, "the time in which it had nothing to answer is not counted"
    lane.ended(31.0, reached=False)
    lane.asked(40.0)
    assert lane.silent_since == 20.0, "what never reached it says nothing of it"


def test_places_are_given_back_although_shares_were_counted_anew() -> None:
    lanes = Lanes()
    lanes.update([replica(1, "a")], 1, {}, 1)
    lane = lanes.take(0.0)
    assert lane is not None
    lanes.update([replica(2, "b")], 1, {}, 1)
    lanes.back(lane)
    assert lane.in_flight == 0


@given(st.integers(1, 99).filter(lambda percent: percent != 50), st.integers(1, 8), st.integers(1, 8))
def test_shares_of_revisions_hold(percent: int, first: int, second: int) -> None:
    """Whoever is full, a canary never has more than its share of what was given, but for one task; of two that have
    the same share neither is one, and each takes what the other cannot."""
    lanes = Lanes()
    found = [*(replica(n, "a") for n in range(first)), *(replica(10 + n, "b") for n in range(second))]
    lanes.update(found, 1, {"a": percent, "b": 100 - percent}, 1)
    given_to, busy = Counter[str](), list[Lane]()
    for _ in range(400):
        lane = lanes.take(0.0)
        if lane is None:
            assert busy, "with everything free somebody gets the task"
            lanes.put(busy.pop(0), good=True)
            continue
        busy.append(lane)
        given_to[lane.replica.revision] += 1
        smaller = "a" if percent < 50 else "b"
        share = min(percent, 100 - percent) / 100
        assert given_to[smaller] <= share * given_to.total() + 1


@given(st.integers(0, 3), st.integers(1, 12))
def test_a_slow_replica_is_given_twice_as_many_after_each_good_one(bad: int, limit: int) -> None:
    lanes = Lanes()
    lanes.update([replica(0, "a", slow=True)], limit, {}, 1)
    for _ in range(bad):
        lane = lanes.take(0.0)
        assert lane is not None
        assert lanes.take(0.0) is None
        lanes.put(lane, good=False)
    windows = []
    for _ in range(6):
        lane = lanes.take(0.0)
        assert lane is not None
        windows.append(lane.window)
        lanes.put(lane, good=True)
    assert windows == [min(2**n, limit) for n in range(6)]


FOUND = st.one_of(
    st.builds(Answer, st.integers(200, 599), st.just(()), st.binary(max_size=4)),
    st.builds(Broken, st.just("lost"), st.booleans()),
)


@given(st.lists(FOUND, min_size=1, max_size=60), st.integers(1, 10))
def test_every_task_comes_to_an_end_that_was_seen(found: list[Answer | Broken], attempts: int) -> None:
    counted = 0
    for one in found:
        counted += 1
        outcome = follows(one, counted, attempts)
        assert counted <= attempts
        if isinstance(outcome, Retry):
            assert outcome.delay > 0
            assert outcome.free == (isinstance(one, Broken) and not one.sent)
            counted -= outcome.free
            continue
        assert isinstance(outcome, Result)
        if isinstance(one, Answer):
            assert (outcome.status, outcome.body) == (one.status, one.body)
            assert one.status < 500 or one.status in (501, 505) or counted == attempts
        else:
            assert (outcome.status, counted) == (502, attempts)
        return
    assert counted < attempts


def test_attempts_are_further_and_further_apart() -> None:
    assert [delay(n) for n in (1, 2, 3, 8, 100)] == [0.5, 1.0, 2.0, 60.0, 60.0]
