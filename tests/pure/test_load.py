"""The load generator's decisions: when requests are sent, what became of them, where the knee is, what follows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.cli.stress import Result
from modelworks.kernel.errors import Invalid
from modelworks.sdk.load import knee, schedule
from modelworks.sdk.load.connection import Answer
from modelworks.sdk.load.generator import Target
from modelworks.sdk.load.outcome import Outcome, percentile

_RATES = st.floats(0.1, 500)


def outcome(rate: float, latency: float, *, limited: int = 0, errors: int = 0, queued: float = 0.0) -> Outcome:
    """A step of a second."""
    made = Outcome(rate, 1.0)
    for number in range(int(rate)):
        made.sent += 1
        bad = Answer(429) if number < limited else Answer(500) if number < limited + errors else None
        made.count(bad or Answer(200, queued=queued), latency)
    return made


@given(_RATES, st.floats(0.1, 5), st.sampled_from(["constant", "poisson"]))
def test_arrivals_are_in_order_and_within_the_step(rate: float, duration: float, kind: schedule.Arrivals) -> None:
    found = list(schedule.arrivals(schedule.Step(rate, duration), kind, seed=1))
    assert found == sorted(found)
    assert all(0 <= at < duration + 1e-6 for at in found)
    if kind == "constant":
        assert len(found) == int(rate * duration + 1e-9)


def test_random_arrivals_have_the_rate_and_are_the_same_again() -> None:
    step = schedule.Step(200, 50)
    found = list(schedule.arrivals(step, "poisson", 3))
    assert found == list(schedule.arrivals(step, "poisson", 3))
    assert len(found) == pytest.approx(10_000, rel=0.05)


@given(st.floats(0.5, 100), st.floats(0, 100), st.floats(1, 50))
def test_steps_go_from_the_first_rate_to_the_last(first: float, above: float, more: float) -> None:
    rates = [step.rate for step in schedule.steps(f"{first}:{first + above}:{more}", 1)]
    assert rates[0] == first
    assert first + above - more < rates[-1] <= first + above + 1e-6
    assert rates == sorted(rates)


@pytest.mark.parametrize("text", ["10", "a:b:c", "10:5:1", "1:10:0", "0:10:1", "1:1e9:1", "1:100000:1"])
def test_what_is_no_steps_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        schedule.steps(text, 1)


def test_a_recording_is_put_in_order_and_begins_at_once() -> None:
    lines = [
        json.dumps({"at": "2026-01-01T00:00:02Z", "body": "b"}),
        "",
        json.dumps({"at": "2026-01-01T00:00:00+00:00", "body": {"x": 1}, "path": "v1", "method": "put"}),
        json.dumps({"at": 1767225604, "body_base64": "AAE="}),
    ]
    found = schedule.recording(lines, speed=2)
    assert [(one.at, one.body, one.method) for one in found] == [
        (0, b'{"x": 1}', "PUT"), (1, b"b", "POST"), (2, b"\0\1", "POST"),
    ]  # fmt: skip


def test_captured_requests_are_a_recording() -> None:
    def line(at: float, path: str, status: int = 200, **request: object) -> str:
        return json.dumps(
            {"service": "digits", "at": at, "method": "POST", "path": path, "status": status, "request": request}
        )

    found = schedule.recording(
        [
            line(
                101.5, "/api/predict/digits/v2/models/m/infer?a=b", type="text/plain", encoding="utf-8", body="é\u2028x"
            ),
            line(100, "/api/predict/team.digits?a=b", type="", encoding="base64", body="AAE=", truncated=True),
            line(102, "/api/predict/digits", 429, type="", encoding="utf-8", body=""),
            line(103, "/api/predict/digits", 404, type="", encoding="utf-8", body=""),
        ]
    )
    assert found == [
        schedule.Recorded(0, b"\0\1", "?a=b", unfit="cut before their bodies ended"),
        schedule.Recorded(1.5, "é\u2028x".encode(), "v2/models/m/infer?a=b", content_type="text/plain"),
        schedule.Recorded(2, None, ""),
        schedule.Recorded(3, None, "", unfit="refused by the service when they were captured"),
    ]
    target = Target("http://h:1/api/predict/other", "t")
    assert target.request(found[0]).startswith(b"POST /api/predict/other?a=b HTTP/1.1\r\n")
    assert target.request(found[1]).startswith(b"POST /api/predict/other/v2/models/m/infer?a=b HTTP/1.1\r\n")
    assert target.request(found[2]).startswith(b"POST /api/predict/other HTTP/1.1\r\n")


@pytest.mark.parametrize("line", ["x", "[]", "{}", '{"at": "soon"}', '{"at": 1, "body_base64": "?"}'])
def test_a_wrong_line_of_a_recording_is_named(line: str) -> None:
    with pytest.raises(Invalid, match="line 2"):
        schedule.recording(['{"at": 0}', line])


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_the_share_is_not_above(values: list[float], share: float) -> None:
    from array import array  # noqa: PLC0415

    found = percentile(array("d", values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6


def test_the_knee_is_the_last_rate_before_the_first_that_was_not_sustained() -> None:
    steps = [outcome(10, 0.02), outcome(20, 0.02), outcome(40, 0.02, limited=10), outcome(80, 0.02)]
    found = knee.find(steps)
    assert (found.rate, found.reached) == (20, True)
    assert "40/s" in found.why
    assert "25% refused (429)" in found.why
    assert found.capacity == 80


@pytest.mark.parametrize(
    ("second", "why"),
    [(outcome(20, 0.2), "p95"), (outcome(20, 0.02, errors=1), "failed"), (outcome(20, 0.04), "")],
)
def test_what_strains_a_service(second: Outcome, why: str) -> None:
    told = knee.strained(second, outcome(10, 0.02))
    assert why in told
    assert bool(told) == bool(why)


def test_a_wanted_p99_is_the_measure_when_there_is_one() -> None:
    assert knee.find([outcome(10, 0.02), outcome(20, 0.3)], target=0.5).reached is False
    assert knee.find([outcome(10, 0.02), outcome(20, 0.6)], target=0.5).rate == 10


@given(
    st.lists(_RATES, min_size=1, max_size=8, unique=True), st.integers(1, 20), st.floats(0.001, 2), st.floats(1, 1e4)
)
def test_advice_is_enough_for_what_is_expected(
    rates: list[float], replicas: int, latency: float, expected: float
) -> None:
    steps = [outcome(rate, latency) for rate in rates if rate >= 1]
    found = knee.find(steps)
    advice = knee.advise(steps, found, replicas, expected)
    if found.rate is None:
        assert advice is None
        return
    assert advice is not None
    assert advice.concurrency >= found.rate / replicas * latency
    (planned,) = advice.replicas.values()
    assert planned * found.rate / replicas >= expected * 0.999  # at what a replica was seen to sustain


def test_time_in_the_gateways_queue_is_no_work_of_the_replica() -> None:
    step = outcome(100, 1.0, queued=0.9)
    assert step.mean_service == pytest.approx(0.1)


def test_a_load_below_the_knee_recommends_no_concurrency() -> None:
    light, heavy = outcome(10, 0.02), outcome(20, 2.0)
    assert "concurrency:" not in Result("s", [light], 1)._advice()
    assert "as far as it was tried" in Result("s", [light], 1)._advice()
    assert "recommended:\n  concurrency: 1\n" in Result("s", [light, heavy], 1)._advice()
