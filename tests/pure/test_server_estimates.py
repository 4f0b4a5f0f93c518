"""What the model server learns of its model's speed, and that it knows every processor that is its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelworks.products.serving.spec import Processor
from modelworks.server.estimates import QUICK, Estimates
from modelworks.server.load import PROCESSORS
from modelworks.server.spread import Spread, shares


def test_the_server_has_the_processors_that_run_on_it() -> None:
    assert {str(processor) for processor in Processor if processor.own_server} == set(PROCESSORS)


def test_one_slow_call_is_forgiven_and_a_slow_model_is_not() -> None:
    estimates = Estimates()
    assert estimates.get("a", 1) is None
    for _ in range(5):
        estimates.add("a", 1, QUICK / 10)
    estimates.add("a", 1, QUICK * 100)
    assert estimates.get("a", 1) == QUICK / 10
    assert estimates.quick("a")
    for _ in range(9):
        estimates.add("a", 1, QUICK * 100)
    assert estimates.get("a", 1) == QUICK * 100


def test_fewer_rows_than_were_seen_take_no_longer_and_more_are_unknown() -> None:
    estimates = Estimates()
    estimates.add("a", 16, QUICK / 2)
    assert estimates.get("a", 3) == QUICK / 2
    assert estimates.get("a", 64) is None
    assert estimates.get("b", 1) is None


def test_callers_cannot_make_it_grow_without_end() -> None:
    estimates = Estimates()
    for number in range(5000):
        estimates.add(number, 1, 0.0)
    assert len(estimates._seen) <= 1024


def test_calls_side_by_side_are_chosen_when_they_were_measured_to_be_no_slower() -> None:
    spread = Spread(4)
    assert not spread.pays("a", 8, 2, 4)  # nothing is known
    for rows, seconds in ((1, 0.004), (8, 0.02)):
        spread.add("a", rows, seconds, beside=False)
    assert spread.pays("a", 8, 2, 4)  # never tried
    spread.add("a", 1, 0.01, beside=True)
    spread.add("a", 2, 0.019, beside=True)
    assert spread.pays("a", 8, 2, 4)  # 8 rows in 19 ms instead of 20
    assert spread.pays("a", 8, 2, 4)
    assert not spread.pays("a", 2, 1, 2)  # two rows in 10 ms; together they take about 5
    assert not spread.pays("a", 1, 1, 1)
    for _ in range(9):
        spread.add("a", 2, 0.03, beside=True)
    assert not spread.pays("a", 8, 2, 4)


@given(rows=st.integers(0, 100), items=st.integers(0, 100), lanes=st.integers(1, 64))
def test_shares_hold_all_rows_and_are_no_more_than_lanes_or_requests(rows: int, items: int, lanes: int) -> None:
    calls, each = shares(rows, items, lanes)
    assert 1 <= calls <= lanes
    assert calls <= max(items, 1)
    assert calls * each >= rows
    assert (each - 1) * calls < max(rows, 1)
