"""Which checkpoints of earlier attempts go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelworks.agent.checkpoints import surplus
from modelworks.train.layout import Place

RESTORED = 3


@given(st.integers(1, 8), st.lists(st.integers(0, 6), max_size=8))
def test_however_often_a_job_is_preempted_the_newest_few_stay_and_no_more(keep: int, saves: list[int]) -> None:
    """``saves`` are how many checkpoints each attempt writes before it is preempted."""
    step, earlier = 0, set[Place]()
    for count in saves:
        here, sent = set(sorted(earlier)[-RESTORED:]), set[Place]()
        for _ in range(count):
            step += 1
            here = set(sorted({*here, Place(step)})[-keep:])
            sent = (sent | {Place(step)}) & here
            for place in surplus(dict.fromkeys(earlier, True), here, here, {None: keep}):
                earlier.remove(place)
            assert earlier | sent == {Place(n) for n in range(max(step - keep, 0) + 1, step + 1)}
        earlier |= sent


@given(st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20), min_size=1), st.sets(st.integers(1, 20)))
def test_nothing_that_is_whole_goes_while_nobody_says_how_many_are_kept(
    left: set[int], here: set[int], torn: set[int]
) -> None:
    known = {Place(step): step not in torn for step in left}
    present = {Place(step) for step in here}
    gone = surplus(known, present, present, {None: None})
    assert all(place.step > max(here) or not known[place] for place in gone)
    assert all(place in gone for place, whole in known.items() if not whole and place not in present)


def test_a_course_that_was_given_up_goes_and_another_ranks_parts_stay() -> None:
    known = {Place(8): True, Place(10): True, Place(8, 1): True, Place(10, 1): True}
    present = {Place(8), Place(9)}
    assert surplus(known, present, present, {None: 5}) == [Place(10)]
