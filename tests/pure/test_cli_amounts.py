"""Money and quantities as `mw` prints them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.cli.output import money, quantity_hours


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0.00"),
        (None, "0.00"),
        (1e-9, "<0.000001"),
        (0.000001, "0.000001"),
        (0.000211, "0.000211"),
        (0.00021149, "0.000211"),
        (0.0100, "0.01"),
        (0.0125, "0.0125"),
        (0.123456, "0.1235"),
        (0.5, "0.5"),
        (0.99996, "1.00"),
        (1, "1.00"),
        (12.345, "12.35"),
        (12345.678, "12345.68"),
    ],
)
def test_money(amount: float | None, text: str) -> None:
    assert money(amount) == text
    assert money(amount, "USD") == f"{text} USD"


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (0, "GiB", "0 GiB·h"),
        (0.5, "instance", "0.5 instance·h"),
        (12.34567, "instance", "12.3457 instance·h"),
        (0.00001, "instance", "<0.0001 instance·h"),
        (2.0, "GiB", "2 GiB·h"),
        (0.0002, "GiB", "0.2048 MiB·h"),
        (1e-9, "GiB", "1.0737 B·h"),
        (1e-15, "GiB", "<0.0001 B·h"),
        (100.0, "instance", "100 instance·h"),
    ],
)
def test_quantities(amount: float, unit: str, text: str) -> None:
    assert quantity_hours(amount, unit) == text


@given(st.floats(min_value=1e-300, max_value=1e12))
def test_what_is_something_never_prints_as_nothing(amount: float) -> None:
    for text in (money(amount), quantity_hours(amount, "GiB"), quantity_hours(amount, "instance")):
        assert re.search("[1-9]", text), text
        assert "e" not in text.split()[0], text


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_money_is_near_what_it_is(amount: float) -> None:
    assert float(money(amount)) == pytest.approx(amount, rel=5.1e-4, abs=5.1e-7 if amount < 1 else 5.1e-3)
