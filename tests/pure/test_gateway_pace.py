"""What is told from the past: how fast a queue moves, which silence is usual, how many requests a second there were."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.gateway.bucket import Bucket
from modelworks.gateway.door import Door
from modelworks.gateway.hung import Silence, forgiven, hanging, hung
from modelworks.gateway.lanes import Lane, Slot, whole_seconds
from modelworks.gateway.pace import Pace
from modelworks.gateway.table import Replica


@given(st.floats(1, 1000), st.lists(st.floats(0, 0.5), min_size=1, max_size=300))
def test_a_bucket_lets_no_more_through_than_its_rate(rate: float, pauses: list[float]) -> None:
    bucket, now, passed = Bucket(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        seconds = bucket.take(now)
        passed += seconds == 0.0
        assert seconds <= 1 / rate + 1e-9
    assert passed <= rate * now + max(1.0, rate) + 1e-6


@settings(deadline=None)
@given(st.integers(1, 32), st.floats(0.01, 2.0))
def test_the_pace_of_a_steady_queue_is_its_rate(capacity: int, held: float) -> None:
    pace, now = Pace(), 0.0
    for _ in range(4 * capacity + 20 + int(2 * capacity / held)):
        now += held / capacity
        pace.held(held)
        pace.left(now, capacity)
    rate = pace.rate(capacity)
    assert rate is not None
    assert 0.9 <= rate * held / capacity <= 1.3
    doubled = pace.rate(2 * capacity)
    assert doubled is not None
    assert doubled > 1.7 * rate


@given(st.lists(st.floats(0, 100), max_size=200))
def test_the_mean_stays_among_the_samples(samples: list[float]) -> None:
    pace = Pace()
    for seconds in samples:
        pace.held(seconds)
    if samples:
        assert min(samples) - 1e-9 <= pace.mean <= max(samples) + 1e-9
    else:
        assert pace.rate(4) is None


@given(st.lists(st.floats(0.01, 0.03), min_size=1, max_size=20), st.integers(200, 300))
def test_the_tail_is_above_nearly_all_and_forgets_a_stall(pattern: list[float], count: int) -> None:
    samples = (pattern * count)[:count]  # to draw every one of them takes ten times longer than the test
    pace = Pace()
    above = 0
    for number, seconds in enumerate(samples):
        above += number >= 100 and seconds > pace.tail + 0.002
        pace.held(seconds)
        assert pace.mean <= pace.tail <= max(samples) + 1e-9
    assert above <= len(samples) // 10
    usual = pace.mean
    pace.held(60.0)
    assert pace.tail <= 4 * usual + 0.01
    for _ in range(500):
        pace.held(0.03)
    assert pace.tail < 0.04


def test_a_time_without_a_queue_is_in_no_window() -> None:
    pace, now = Pace(), 0.0
    for _ in range(5):
        for _ in range(100):
            now += 0.01
            pace.left(now, 1)
        pace.rest()
        now += 1000.0
    assert 90 <= (pace.rate(1) or 0.0) <= 130


def test_whole_seconds_are_told_to_clients() -> None:
    assert [whole_seconds(s) for s in (None, -3.0, 0.0, 0.2, 1.0, 1.01, 59.5, 1e9)] == [1, 1, 1, 1, 1, 2, 60, 60]


def slots(count: int) -> tuple[Slot, ...]:
    lane = Lane("r")
    door = Door(None, b"", b"")  # type: ignore[arg-type]
    return tuple(Slot(Replica(f"{i}", f"unix:/{i}", "r"), 4, door, lane) for i in range(count))


KEEPALIVE = 600.0


def test_the_silence_that_is_usual() -> None:
    silence = Silence()
    assert silence.allowed(None, KEEPALIVE) == KEEPALIVE  # all that is known is what the service declares
    assert silence.allowed(0.5, KEEPALIVE) == 0.5
    silence.note(0.0)  # within a tick of the clock
    assert silence.allowed(None, KEEPALIVE) == 5.0
    silence.note(3.0)
    silence.note(0.01)
    assert silence.allowed(None, KEEPALIVE) == 12.0
    for minute in range(1, 4):
        silence.sweep(minute * 60.0)
        silence.note(0.01)
    assert silence.allowed(None, KEEPALIVE) == 12.0
    for minute in range(4, 12):
        silence.note(0.01)
        silence.sweep(minute * 60.0)
    assert silence.allowed(None, KEEPALIVE) == 5.0
    for minute in range(12, 1000):
        silence.sweep(minute * 60.0)
    assert silence.allowed(None, KEEPALIVE) == 5.0  # nothing new was seen: what was is still all that is known


def test_what_an_earlier_process_saw_is_known_until_enough_is_seen_here() -> None:
    silence = Silence()
    silence.recall(8.0)
    assert silence.allowed(None, KEEPALIVE) == 32.0
    for minute in range(1, 6):
        silence.note(0.01)
        silence.sweep(minute * 60.0)
    assert silence.allowed(None, KEEPALIVE) == 5.0


@given(
    seen=st.lists(st.floats(0.001, 1000.0), max_size=8),
    keepalive=st.floats(0.5, 5000.0),
    fruitless=st.integers(0, 5000),
)
def test_a_silence_is_allowed_for_as_long_as_is_usual_and_declared(
    seen: list[float], keepalive: float, fruitless: int
) -> None:
    silence = Silence()
    for seconds in seen:
        silence.note(seconds)
    silence.fruitless = fruitless
    allowed = silence.allowed(None, keepalive)
    assert 5.0 <= allowed <= max(5.0, keepalive)
    if not seen or fruitless > 30:
        assert allowed == max(5.0, keepalive)
    elif fruitless <= 1:
        assert allowed == max(5.0, min(4.0 * max(seen), keepalive))
    assert allowed >= min(max(seen, default=0.0), keepalive)  # who is as slow as was seen is never taken for hung
    silence.fruitless = fruitless + 1
    assert silence.allowed(None, keepalive) >= allowed


def test_who_owes_a_word() -> None:
    idle, busy, uploading, talking = found = slots(4)
    for slot in (busy, uploading, talking):
        slot.in_flight = 2
    uploading.excused = 2
    talking.heard = 9.0
    assert hanging(found, 10.0, 10.0) == []
    assert hanging(found, 10.1, 10.0) == [busy]
    busy.hung = True
    assert hanging(found, 11.0, 10.0) == []
    assert hung(found) == {busy.replica.id}
    assert forgiven(found, 1000.0) == []
    busy.in_flight = 0  # its clients have gone
    assert hung(found) == {busy.replica.id}
    assert forgiven(found, 20.0) == []
    assert forgiven(found, 31.0) == [busy]
    assert idle.silent_since is None
