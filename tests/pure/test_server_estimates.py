"""What the model server learns of its model's speed, and that it knows every processor that is its own."""

from __future__ import annotations

from modelworks.products.serving.spec import Processor
from modelworks.server.estimates import QUICK, Estimates
from modelworks.server.load import PROCESSORS


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
