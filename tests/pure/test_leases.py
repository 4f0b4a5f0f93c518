"""Leases: however messages travel and whoever is killed, two attempts are never at work at once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.lease_world import LEASE, World

from modelworks.agent import lease
from modelworks.agent.lease import Challenges, RunLease
from modelworks.control import fleet
from modelworks.control.leases import MARGIN, Tenure
from modelworks.kernel.errors import Conflict, Unavailable
from modelworks.kernel.run import RunSpec
from modelworks.runtime.rundir import RunDirectory

HAPPENINGS = ("cut", "heal", "hang", "resume", "kill_agent", "kill_controller", "start_controller")
EVENT = st.tuples(
    st.sampled_from(HAPPENINGS),
    st.sampled_from(["n0", "n1", "n2"]),
    st.sampled_from([0.25, 1.0, 5.0, 12.0, 18.0, 25.0]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(EVENT, max_size=14), st.integers(0, 2**32))
@example([("cut", "n0", 25.0), ("heal", "n0", 25.0)], 1)
@example(
    [("cut", "n0", 5.0), ("kill_controller", "n0", 0.25), ("start_controller", "n0", 25.0), ("heal", "n0", 5.0)], 1
)
@example([("hang", "n0", 25.0), ("resume", "n0", 25.0)], 1)
def test_never_two_attempts_at_work(
    monkeypatch: pytest.MonkeyPatch, events: list[tuple[str, str, float]], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), Random(seed))
        monkeypatch.setattr(fleet, "boottime", world.clock)
        for happening, node, seconds in [("heal", "n0", 5.0), *events]:
            getattr(world, happening)(node)
            pass_time(world, seconds)
        # And when all is well again, one is at work before long: nothing waits for ever.
        for node in world.nodes:
            world.heal(node)
            world.resume(node)
        world.start_controller("")
        for _ in range(40):
            if world.at_work():
                break
            pass_time(world, 10.0)
        assert world.at_work()


def pass_time(world: World, seconds: float) -> None:
    for _ in range(round(seconds * 4)):
        world.tick()
        assert len(world.at_work()) <= 1, world.at_work()


def spec(challenge: str) -> RunSpec:
    return RunSpec(
        key="job123/a1/0/0", workspace="w", kind="K", name="n", command=("true",), lease=LEASE, challenge=challenge
    )


def test_a_challenge_is_good_for_one_lease() -> None:
    now = [100.0]
    challenges = Challenges(lambda: now[0])
    word = challenges.give()
    now[0] += LEASE - 1
    assert challenges.admit(spec(word)) == 100.0 + LEASE
    now[0] += 1
    for late in (word, "another", ""):
        with pytest.raises(Unavailable):
            challenges.admit(spec(late))
    assert challenges.given(word) == 100.0
    for _ in range(64):
        challenges.give()
    with pytest.raises(Conflict):
        challenges.given(word)


def test_what_is_over_stays_over_and_another_boot_has_no_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    lease.write(tmp_path, 110.0)
    held = RunLease(RunDirectory(tmp_path), 10.0, lambda: now[0])
    held.extend(102.0)
    held.extend(101.0)  # its answer was slower
    assert held.until == RunLease(RunDirectory(tmp_path), 10.0, lambda: now[0]).until == 112.0
    held.check()
    now[0] = 112.0
    held.extend(111.0)
    assert held.over
    with pytest.raises(Conflict):
        held.check()
    assert held.stop() is not None
    now[0] = 5.0
    monkeypatch.setattr(lease, "boot", lambda: "another")
    assert RunLease(RunDirectory(tmp_path), 10.0, lambda: now[0]).over
    assert not RunLease(RunDirectory(tmp_path), None, lambda: now[0]).over


@given(st.lists(st.tuples(st.floats(0, 1000), st.booleans())))
def test_a_tenure_counts_from_the_last_word(words: list[tuple[float, bool]]) -> None:
    tenure = Tenure(LEASE, 0.0)
    for at, answer in words:
        if answer:
            tenure.sent(f"word-{at}", at)
        else:
            tenure.heard(at)
    last = max([0.0, *(at for at, _ in words)])
    assert tenure.over_at() == last + LEASE + MARGIN
    assert not tenure.over(last + LEASE)
    assert tenure.challenge(last + LEASE) is None
