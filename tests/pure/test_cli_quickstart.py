"""The quickstart's own arithmetic: a split that is the same every time, percentiles, and what it prints."""

from __future__ import annotations

import ast
import shlex
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from modelworks.cli.quickstart import digits
from modelworks.cli.quickstart.ask import body, label_of, percentile
from modelworks.cli.quickstart.report import curl, snippet


def images(count: int) -> list[digits.Image]:
    return [digits.Image((index % 17,) * 64, index % 10) for index in range(count)]


@given(st.integers(min_value=100, max_value=2000))
def test_the_split_is_whole_and_stratified(count: int) -> None:
    every = images(count)
    training, held = digits.split(every, held_out=count // 5)
    assert len(held) == count // 5
    assert Counter(training) + Counter(held) == Counter(every)
    shares = Counter(image.label for image in held).values()
    assert max(shares) - min(shares) <= 2


def test_the_split_is_the_same_every_time() -> None:
    assert digits.split(images(500), 100) == digits.split(images(500), 100)


def test_the_shipped_digits() -> None:
    training, held = digits.split(digits.load())
    assert (len(training), len(held)) == (1437, 360)
    lines = digits.as_csv(training).decode().splitlines()
    assert len(lines) == 1438
    assert all(len(line.split(",")) == 65 for line in lines)


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=400), st.floats(0.01, 1))
def test_percentiles_are_values_that_were_seen(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert sum(value <= found for value in ordered) >= share * len(ordered) * (1 - 1e-9)


def test_percentiles_by_hand() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2
    assert percentile(list(range(1, 101)), 0.99) == 99


def test_answers() -> None:
    assert label_of({"predictions": [7]}) == 7
    assert label_of({"predictions": [{"label": 3, "probabilities": []}]}) == 3


def test_what_is_printed_can_be_pasted() -> None:
    image = digits.Image((1,) * 64, 1)
    data = str(body(image)).replace("'", '"')
    words = shlex.split(curl("http://h/api/predict/digits", "token", data))
    assert words[0] == "curl"
    assert words[-1] == "http://h/api/predict/digits"
    ast.parse(snippet("http://h/api/predict/digits", "token", data))
