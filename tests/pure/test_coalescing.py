"""Wishes that come fast are looked at together; those that come slowly never wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.control.coalescing import Coalescing


@given(st.lists(st.floats(0, 0.4), min_size=1, max_size=80))
def test_no_second_has_more_looks_than_the_burst_and_one_for_each_gap(pauses: list[float]) -> None:
    coalescing = Coalescing(burst=4, gap=0.1, span=1.0)
    now, looks = 100.0, list[float]()
    for pause in pauses:
        now += pause
        delay = coalescing.delay(now)
        assert 0.0 <= delay <= 0.1
        now += delay
        coalescing.looked(now)
        looks.append(now)
    for first in looks:
        assert sum(first <= look < first + 1.0 for look in looks) <= 4 + 10


def test_who_comes_seldom_waits_never() -> None:
    coalescing = Coalescing(burst=4, gap=0.1, span=1.0)
    for number in range(50):
        assert coalescing.delay(number * 0.3) == 0.0
        coalescing.looked(number * 0.3)


def test_after_the_burst_a_gap_lies_between_looks() -> None:
    coalescing = Coalescing(burst=2, gap=0.1, span=1.0)
    for now in (0.0, 0.01):
        assert coalescing.delay(now) == 0.0
        coalescing.looked(now)
    assert coalescing.delay(0.02) == pytest.approx(0.09)
    assert coalescing.delay(0.2) == 0.0
    assert coalescing.delay(1.02) == 0.0
