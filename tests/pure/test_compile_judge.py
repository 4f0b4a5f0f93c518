"""How a compiled model is judged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.compile.judge import MOST_LOST, Score, judge, score, task_of

_SCORES = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=50)


@given(_SCORES)
def test_a_model_agrees_with_itself(rows: list[list[float]]) -> None:
    outputs = [np.array(rows, dtype=np.float32)]
    assert task_of(outputs) == "classification"
    assert score(outputs, outputs, None, "classification") == Score("agreement", 1.0, len(rows))
    assert score(outputs, outputs, None, "regression").value == 1.0


@given(_SCORES, st.data())
def test_a_score_is_a_share_and_counts_every_sample(rows: list[list[float]], data: st.DataObject) -> None:
    reference = [np.array(rows, dtype=np.float32)]
    wrong = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    labels = reference[0].argmax(1)
    labels[list(wrong)] += 1
    found = score(reference, reference, labels, "classification")
    assert found.metric == "accuracy"
    assert found.value == pytest.approx(1 - len(wrong) / len(rows))


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_than_half_a_point_lost_is_refused(before: float, after: float) -> None:
    verdict = judge(Score("accuracy", before, 1000), Score("accuracy", after, 1000), "INT8")
    assert verdict.lost == pytest.approx(100 * (before - after))
    if not verdict.ok:
        assert verdict.lost > MOST_LOST
        assert "1000 samples" in verdict.told
    else:
        assert verdict.lost <= MOST_LOST + 1e-6


def test_labels_that_are_text_are_compared_as_text() -> None:
    outputs = [np.array(["cat", "dog"], dtype=object)]
    assert score(outputs, outputs, np.array(["cat", "cat"]), "classification").value == 0.5


def test_numbers_are_judged_by_the_variance_that_is_explained() -> None:
    wanted = [np.array([[1.0], [2.0], [3.0]], dtype=np.float32)]
    assert task_of(wanted) == "regression"
    near = [wanted[0] + 0.01]
    assert 0.999 < score(near, wanted, None, "regression").value < 1
    assert score([wanted[0] * -10], wanted, None, "regression").value == 0
