"""A node's picture: what a worker just started is neither lost nor taken back by an older answer."""

from __future__ import annotations

from typing import cast

import pytest

from modelworks.control.fleet import Fleet, Picture
from modelworks.control.leases import Tenure
from modelworks.kernel.errors import Unavailable
from modelworks.kernel.run import RunObservation, RunPhase
from modelworks.runtime.base import Runtime

UID = "aaaaaaaa"
KEY = f"{UID}/a1/0/0"


def seen(phase: RunPhase, key: str = KEY) -> RunObservation:
    return RunObservation(key=key, phase=phase, node="n", created_at=1.0)


def phases(picture: Picture) -> list[RunPhase]:
    return [run.phase for run in picture.of(UID)]


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_from_before_the_start_does_not_hide_it(whole: bool) -> None:
    picture = Picture()
    begun = picture.begin()
    picture.add(seen(RunPhase.PREPARING))
    if whole:
        picture.replace_all(begun, [])
    else:
        picture.replace(begun, UID, [])
    assert phases(picture) == [RunPhase.PREPARING]


def test_an_answer_from_after_the_start_counts() -> None:
    picture = Picture()
    picture.add(seen(RunPhase.PREPARING))
    picture.replace(picture.begin(), UID, [])
    assert phases(picture) == []


def test_a_start_that_is_told_late_does_not_take_back_the_end() -> None:
    """The worker that started a run may be slower than the observer that saw it end."""
    picture = Picture()
    picture.replace(picture.begin(), UID, [seen(RunPhase.EXITED)])
    picture.add(seen(RunPhase.PREPARING))
    assert phases(picture) == [RunPhase.EXITED]


def test_what_was_forgotten_is_gone() -> None:
    picture = Picture()
    picture.add(seen(RunPhase.EXITED))
    picture.drop(KEY)
    assert phases(picture) == []


def test_silence_is_not_absence(runtime: Runtime) -> None:
    fleet = Fleet()
    with pytest.raises(Unavailable):
        fleet.runs(UID)
    picture = fleet.join("n", runtime)
    assert fleet.runs(UID) == []  # it has no claim there
    with pytest.raises(Unavailable):
        fleet.runs(UID, ["n"])
    picture.replace_all(picture.begin(), [])
    assert fleet.runs(UID, ["n"]) == []
    with pytest.raises(Unavailable):
        fleet.runs(UID, ["other"])


def test_whose_log_is_read_is_asked_alone() -> None:
    fleet, doors = Fleet(expected=0), {name: cast(Runtime, object()) for name in ("near", "far", "mute")}
    leased = Tenure(15.0, 0.0)
    pictures = {name: fleet.join(name, doors[name], None if name == "near" else leased) for name in doors}
    assert fleet.holders(KEY) == [doors["near"]]  # of which nothing is known, and which cannot be cut off
    for name in ("near", "far"):
        pictures[name].replace_all(pictures[name].begin(), [])
    assert fleet.holders(KEY) == []
    pictures["far"].add(seen(RunPhase.RUNNING))
    assert fleet.holders(KEY) == [doors["far"]]
    pictures["far"].away()
    assert fleet.holders(KEY) == []


def test_a_claim_is_lost_with_its_node_and_not_on_one_that_is_back(runtime: Runtime) -> None:
    fleet = Fleet(expected=0)
    picture = fleet.join("n", runtime, Tenure(15.0, 0.0))
    picture.lose(20.0)
    lost = fleet.lose_claim("n", KEY, 1.0)
    assert lost is not None
    assert (lost.phase, lost.exited_at) == (RunPhase.LOST, 20.0)
    picture.replace_all(picture.begin(), [])
    assert fleet.lose_claim("n", KEY, 1.0) is None
    assert fleet.runs(UID, ["n"]) == []


@pytest.fixture
def runtime() -> Runtime:
    return object()  # type: ignore[return-value]
