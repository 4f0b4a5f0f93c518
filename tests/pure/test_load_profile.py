"""Which batch size and concurrency a profile takes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from modelworks.sdk.load.profile import AS_GOOD, SAFE_MEMORY, Trial, best, doubling, enough


def trial(batch: int, throughput: float, *, p99: float = 0.1, errors: int = 0, memory: int = 50) -> Trial:
    return Trial(batch, 2 * batch, throughput, p99 / 2, p99, errors, memory, 100)


TRIALS = st.lists(
    st.builds(
        trial,
        st.sampled_from([1, 2, 4, 8, 16]),
        st.floats(0, 1000),
        p99=st.floats(0.001, 2),
        errors=st.integers(0, 1),
        memory=st.integers(0, 120),
    ),
    max_size=8,
)


@given(TRIALS, st.none() | st.floats(0.01, 1))
def test_what_is_taken_is_safe_and_as_good_as_any_safe_one(trials: list[Trial], target: float | None) -> None:
    found = best(trials, target)
    safe = [one for one in trials if not one.unsafe(target)]
    if found is None:
        assert safe == []
        return
    assert found.errors == 0
    assert found.memory <= SAFE_MEMORY * found.limit
    assert target is None or found.p99 is None or found.p99 <= target
    assert found.throughput >= AS_GOOD * max(one.throughput for one in safe)


@given(TRIALS)
def test_nothing_larger_is_tried_after_what_is_unsafe(trials: list[Trial]) -> None:
    if trials and trials[-1].unsafe():
        assert enough(trials)


@given(st.integers(1, 4096))
def test_sizes_double_to_the_most(most: int) -> None:
    found = doubling(most)
    assert (found[0], found[-1]) == (1, most)
    assert found == sorted(set(found))
    assert all(after <= 2 * before for before, after in pairwise(found))


def test_the_smallest_of_what_is_as_good() -> None:
    trials = [trial(1, 100), trial(2, 190), trial(4, 198), trial(8, 199)]
    assert best(trials) == trials[1]
    assert not enough(trials[:3])
    assert enough(trials)


def test_memory_near_the_limit_is_unsafe() -> None:
    assert best([trial(1, 100), trial(2, 200, memory=81)]) == trial(1, 100)
    assert "81% of its limit" in trial(2, 200, memory=81).unsafe()
