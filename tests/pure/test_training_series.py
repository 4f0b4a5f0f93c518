"""Series of values by step: across attempts, and thinned to be drawn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelworks.products.training.series import Series, parse, thinned


def reports(*steps: int, at: float) -> list[dict[str, float]]:
    return [{"at": at, "step": step, "loss": 1 / (1 + step)} for step in steps]


def test_steps_that_were_done_again_are_not_doubled() -> None:
    series = Series()
    series.add(reports(1, 2, 3, 4, 5, at=1.0))
    series.add([])
    series.add(reports(3, 4, at=2.0))
    assert [(step, at) for step, _, at in series.of("loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_only_what_is_asked_for_is_kept() -> None:
    series = Series(frozenset({"loss"}))
    series.add([{"at": 1.0, "step": 1, "loss": 2.0, "accuracy": 0.5}])
    assert series.points == {"loss": {1: (2.0, 1.0)}}


def test_a_line_that_is_cut_short_is_skipped() -> None:
    assert list(parse([b'{"step": 1, "loss": 2}', b'{"step": 2, "lo'])) == [{"step": 1, "loss": 2}]


@given(st.lists(st.floats(-1e9, 1e9), max_size=400), st.integers(1, 60))
def test_thinning_keeps_ends_and_peaks(values: list[float], most: int) -> None:
    points = [(step, value, 0.0) for step, value in enumerate(values)]
    found = thinned(points, most)
    assert len(found) <= max(most, 0)
    assert found == sorted(found)
    assert set(found) <= set(points)
    if values and most >= 4:
        assert (found[0], found[-1]) == (points[0], points[-1])
        assert {max(values), min(values)} <= {value for _, value, _ in found}
