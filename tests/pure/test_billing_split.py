"""Cutting occupations at UTC midnight: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from modelworks.products.billing.cost import By, Entry, cost, estimate, microseconds_by_day

moments = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))


def entry(began: datetime, ended: datetime | None, price: float = 1.0, quantity: float = 1.0) -> Entry:
    return Entry("default", "Service", "digits", "local.small", quantity, "instance", price, began, ended)


@given(moments, st.timedeltas(timedelta(0), timedelta(days=90)), st.integers(-14, 14))
def test_the_days_sum_up_to_the_span(began: datetime, length: timedelta, offset: int) -> None:
    elsewhere = began.astimezone(timezone(timedelta(hours=offset)))
    parts = list(microseconds_by_day(elsewhere, elsewhere + length))
    assert sum(part for _, part in parts) == length // timedelta(microseconds=1)
    assert all(0 < part <= 86_400_000_000 for _, part in parts)
    assert [day for day, _ in parts] == sorted({day for day, _ in parts})


@given(st.lists(st.tuples(moments, moments, st.floats(0, 100), st.floats(0, 100)), max_size=8), moments, moments)
def test_by_day_and_by_resource_are_the_same_money(
    rows: list[tuple[datetime, datetime, float, float]], one: datetime, other: datetime
) -> None:
    entries = [entry(min(a, b), max(a, b), price, quantity) for a, b, price, quantity in rows]
    since, until = min(one, other), max(one, other)
    by_day, by_resource = (cost(entries, by, since, until) for by in (By.DAY, By.RESOURCE))
    total = math.fsum(item.amount for item in by_resource)
    assert math.isclose(math.fsum(item.amount for item in by_day), total, rel_tol=1e-9, abs_tol=1e-9)


def test_a_row_over_midnight_is_split_there() -> None:
    began = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    days = cost([entry(began, began + timedelta(hours=2), price=2.0)], By.DAY, None, began + timedelta(days=9))
    assert [(str(item.day), item.quantity_hours, item.amount) for item in days] == [
        ("2026-03-01", 0.5, 1.0),
        ("2026-03-02", 1.5, 3.0),
    ]


def test_what_goes_on_counts_to_the_end_of_the_span() -> None:
    began = datetime(2026, 3, 1, tzinfo=UTC)
    (item,) = cost([entry(began, None, quantity=3.0)], By.RESOURCE, None, began + timedelta(hours=4))
    assert (item.quantity_hours, item.amount, item.name) == (12.0, 12.0, "digits")
    assert cost([entry(began, None)], By.RESOURCE, None, began) == []


def test_an_estimate_is_for_all_replicas() -> None:
    assert estimate(0.5, 4, 1800) == 1.0
