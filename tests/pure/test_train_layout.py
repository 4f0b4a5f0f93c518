"""Which checkpoints count, which go, and which one all ranks resume."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.train import layout
from modelworks.train.layout import Place, Sight, Torn, choose, retired

STEPS = st.integers(0, 5000)
SIGHTS = st.lists(
    st.builds(
        Sight,
        step=st.sampled_from([500, 1000, 1500]),
        rank=st.integers(0, 3),
        world=st.integers(1, 4),
        line=st.sampled_from(["a", "b"]),
        shared=st.booleans(),
        at=st.floats(0, 100),
    ),
    max_size=12,
)


def test_steps_are_numbers() -> None:
    assert layout.step_of("step-1000") == 1000
    assert [layout.step_of(n) for n in ("step-01", "step-", "step-1.tmp", "Step-1", "checkpoint-1")] == [None] * 5
    assert sorted([Place(1000), Place(500), Place(9)], key=lambda place: place.step)[-1] == Place(1000)


def test_paths_are_told_apart() -> None:
    assert layout.split("step-5/model.pt") == (Place(5), "model.pt")
    assert layout.split("rank-2/step-5/contents.json") == (Place(5, 2), "contents.json")
    assert [layout.split(path) for path in ("step-5", "model.pt", "rank-2/model.pt", "a/step-5/x")] == [None] * 4
    assert layout.is_temporary(".step-5.0.abcd")
    assert not layout.is_temporary(".step-5")


@given(st.sets(STEPS), STEPS, st.integers(1, 10))
def test_retention_keeps_the_last_few_up_to_what_was_written(steps: set[int], written: int, keep: int) -> None:
    gone = retired(steps | {written}, written, keep)
    stay = (steps | {written}) - gone
    assert written in stay
    assert gone <= steps
    assert {step for step in steps if step > written} <= stay
    earlier = sorted(step for step in stay if step <= written)
    assert len(earlier) == min(keep, len([step for step in steps | {written} if step <= written]))
    assert all(step < earlier[0] for step in gone)


@given(SIGHTS, st.integers(1, 4))
def test_the_highest_step_that_every_rank_has_is_resumed(sights: list[Sight], world: int) -> None:
    chosen = choose(sights, world)

    def complete(step: int, line: str) -> bool:
        parts = [s for s in sights if (s.step, s.line) == (step, line)]
        shared = [s for s in parts if s.shared]
        return bool(shared) and set(range(min(world, shared[0].world))) <= {s.rank for s in parts}

    kinds = {(s.step, s.line) for s in sights if s.shared}
    if chosen is None:
        assert not kinds
        return
    assert (chosen.step, chosen.line) in kinds
    assert chosen.complete == complete(chosen.step, chosen.line)
    good = [step for step, line in kinds if complete(step, line)]
    assert chosen.step == max(good or [step for step, _ in kinds])


@given(SIGHTS, st.integers(1, 4), st.randoms())
def test_every_rank_chooses_the_same_in_whatever_order_it_hears(sights: list[Sight], world: int, draw: object) -> None:
    # Of one checkpoint there is one manifest: ranks and sizes do not contradict each other.
    one = {(s.step, s.line, s.rank, s.shared): Sight(s.step, s.rank, 4, s.line, s.shared, 1.0) for s in sights}
    shuffled = list(one.values())
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, world) == choose(list(one.values()), world)


@given(
    STEPS,
    st.integers(0, 9),
    st.dictionaries(st.text("abc.", min_size=3, max_size=9), st.integers(0, 10**12)),
    st.none() | st.integers(1, 1000),
)
def test_a_manifest_is_read_as_it_was_written(step: int, rank: int, sizes: dict[str, int], keep: int | None) -> None:
    files = {name: (size, "0" * 64) for name, size in sizes.items() if name not in ("...",)}
    files["contents.json"] = (3, "1" * 64)
    sight = Sight(step, rank, 10, "a", rank == 0, 1.5, keep)
    assert layout.parse_manifest(layout.manifest_bytes(sight, files)) == (sight, files)


@given(st.binary(max_size=200))
def test_no_manifest_can_do_more_than_be_torn(data: bytes) -> None:
    with pytest.raises(Torn):
        layout.parse_manifest(data)


@pytest.mark.parametrize("name", ["../passwd", "/etc/passwd", "a/b", ".."])
def test_a_manifest_names_no_file_elsewhere(name: str) -> None:
    sight = Sight(1, 0, 1, "a", True)
    with pytest.raises(Torn, match="names files that no checkpoint has"):
        layout.parse_manifest(layout.manifest_bytes(sight, {"contents.json": (1, "x"), name: (1, "x")}))


def test_a_torn_checkpoint_says_why() -> None:
    with pytest.raises(Torn, match=r"model\.pt is missing"):
        layout.check_sizes({"model.pt": (5, "")}, {})
    with pytest.raises(Torn, match=r"model\.pt has 3 of 5 bytes"):
        layout.check_sizes({"model.pt": (5, "")}, {"model.pt": 3})
