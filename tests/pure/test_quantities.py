"""Amounts as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.kernel.quantities import (
    format_bytes,
    format_cpu,
    format_duration,
    parse_bytes,
    parse_cpu,
    parse_duration,
)


@pytest.mark.parametrize(
    ("text", "millis"), [("500m", 500), ("2", 2000), (2, 2000), (0.25, 250), ("1.5", 1500), ("0.1", 100), (1e-3, 1)]
)
def test_cpu(text: object, millis: int) -> None:
    assert parse_cpu(text) == millis


@pytest.mark.parametrize(
    ("text", "amount"),
    [("2Gi", 2 * 1024**3), ("500M", 500 * 10**6), ("64k", 64_000), ("1.5Ki", 1536), (17, 17), ("10GiB", 10 * 1024**3)],
)
def test_bytes(text: object, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5400), (30, 30), ("250ms", 0.25), ("1d", 86400), ("12", 12)]
)
def test_duration(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("parse", [parse_cpu, parse_bytes, parse_duration])
@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1 2", "5q", None, True, [], {}, "1e999", "٣", "9" * 400, 10**400, -(10**400)]
)
def test_nonsense_is_refused_with_the_accepted_forms(parse: object, text: object) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match="write"):
        parse(text)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -0.5])
def test_numbers_that_are_no_durations(value: float) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_duration(value)


@given(st.integers(min_value=1, max_value=10**9))
def test_cpu_survives_its_own_text(millis: int) -> None:
    assert parse_cpu(format_cpu(millis)) == millis


@given(st.integers(min_value=0, max_value=2**62))
def test_bytes_text_is_within_a_twentieth_of_a_unit(amount: int) -> None:
    text = format_bytes(amount)
    assert math.isclose(parse_bytes(text), amount, rel_tol=0.051)
    assert len(text) <= len("1023.9Gi")


def test_out_of_memory_reads_as_people_write_it() -> None:
    assert (format_bytes(2254857830), format_bytes(2 * 1024**3)) == ("2.1Gi", "2Gi")


@given(st.floats(min_value=0, max_value=10**8))
def test_duration_text_parses_to_about_the_same(seconds: float) -> None:
    assert math.isclose(parse_duration(format_duration(seconds)), seconds, rel_tol=0.05, abs_tol=0.06)
