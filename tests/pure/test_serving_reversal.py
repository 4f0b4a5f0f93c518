"""A new revision is taken back when it is worse, and never for chance alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service_loop import addresses, change, make_ready, up
from tests.simulated import START, Loop

from modelworks.kernel.traffic import LATENCY_BUCKETS, RevisionCounts, Sample, Traffic
from modelworks.products.serving.reversal import Verdict, judge
from modelworks.products.serving.traffic_spec import Reversal

RULE = Reversal()


def counts(latencies: Sequence[float], errors: int = 0) -> RevisionCounts:
    buckets = [0] * (len(LATENCY_BUCKETS) + 1)
    for latency in latencies:
        buckets[bisect_left(LATENCY_BUCKETS, latency)] += 1
    return RevisionCounts(len(latencies), errors, sum(latencies), tuple(buckets))


def share(whole: RevisionCounts, part: float) -> RevisionCounts:
    """What of it was there after that part of the time."""
    errors, buckets = int(whole.errors * part), tuple(int(count * part) for count in whole.buckets)
    return RevisionCounts(int(whole.answered * part), errors, whole.seconds * part, buckets)


def traffic(old: RevisionCounts, new: RevisionCounts, now: float = START, moments: int = 30) -> Traffic:
    """Half a minute, in the last so many seconds of which they answered evenly."""
    nothing = Sample(now - 30, revisions={"old": RevisionCounts(), "new": RevisionCounts()})
    parts = [(number, number / moments) for number in range(1, moments + 1)]
    return Traffic(
        (
            nothing,
            *(
                Sample(now - moments + number, revisions={"old": share(old, part), "new": share(new, part)})
                for number, part in parts
            ),
        )
    )


def judged(old: RevisionCounts, new: RevisionCounts, rule: Reversal = RULE, since: float = START - 30) -> Verdict:
    return judge(traffic(old, new), "old", "new", rule, START, since)


def test_clear_harm_is_told_with_its_numbers() -> None:
    verdict = judged(counts([0.01] * 200), counts([0.01] * 50, errors=25))
    assert verdict.reason == "25 of 50 answers failed, against 0 of 200 of revision old"
    assert (verdict.numbers["errors"], verdict.numbers["old_answered"]) == (25, 200)
    slow = judged(counts([0.02] * 200), counts([0.15] * 60))
    assert "p99 150 ms, against 20 ms of revision old" in slow.reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (counts([0.01] * 200), counts([0.01] * 49, errors=49)),  # too few
        (counts([]), counts([0.01] * 500, errors=500)),  # nothing to compare with
        (counts([0.01] * 200, errors=100), counts([0.01] * 200, errors=105)),  # bad before
        (counts([0.001] * 500), counts([0.03] * 500)),  # never too long
        (counts([0.1] * 500), counts([0.15] * 500)),  # within the margin
        (counts([0.01] * 500), counts([0.01] * 60, errors=3)),  # may be chance
    ],
)
def test_what_is_no_reason(old: RevisionCounts, new: RevisionCounts) -> None:
    assert not judged(old, new).worse


def test_a_moment_in_which_all_is_slow_is_no_revisions_fault() -> None:
    old, new = counts([0.01] * 200), counts([0.01] * 1800 + [0.3] * 200)
    assert judge(traffic(old, new), "old", "new", RULE, START, START - 30).worse
    assert not judge(traffic(old, new, moments=3), "old", "new", RULE, START, START - 30).worse


def test_it_is_not_judged_by_what_came_before() -> None:
    assert not judged(counts([0.01] * 200), counts([0.01] * 200, errors=200), since=START).worse
    disabled = Reversal(enabled=False)
    assert not judged(counts([0.01] * 200), counts([0.01] * 200, errors=200), disabled).worse


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    answers=st.tuples(st.integers(1, 2000), st.integers(50, 2000)),
    errors=st.floats(0, 1),
    tail=st.floats(0, 0.2),
)
def test_the_same_distribution_is_never_taken_back(
    seed: int, answers: tuple[int, int], errors: float, tail: float
) -> None:
    """Also one with two modes, of which the slow one is thirty times slower."""
    random = Random(seed)

    def drawn(count: int) -> RevisionCounts:
        latencies = [random.uniform(0.01, 0.03) * (30 if random.random() < tail else 1) for _ in range(count)]
        return counts(latencies, sum(random.random() < errors for _ in range(count)))

    assert not judged(drawn(answers[0]), drawn(answers[1])).worse


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), old=st.integers(100, 2000), new=st.integers(100, 2000), harm=st.floats(0.5, 1.0))
def test_clear_harm_is_always_taken_back(seed: int, old: int, new: int, harm: float) -> None:
    random = Random(seed)
    failed = sum(random.random() < harm for _ in range(new))
    assert judged(counts([0.02] * old), counts([0.02] * new, errors=failed)).worse
    slow = [0.4 if random.random() < harm else 0.02 for _ in range(new)]
    assert judged(counts([0.02] * old), counts(slow)).worse


def told(it: Loop, old: str, new: str, errors: int, answers: int = 100) -> None:
    """Ten seconds in which both revisions answered, the new one with errors."""
    before = it.world.traffic.last or Sample(it.world.now, revisions={old: RevisionCounts(), new: RevisionCounts()})
    after = {}
    for name, failed in ((old, 0), (new, errors)):
        so_far = before.revisions.get(name, RevisionCounts())
        more = counts([0.01] * answers, failed)
        buckets = tuple(a + b for a, b in zip(so_far.buckets, more.buckets, strict=True))
        after[name] = replace(
            so_far, answered=so_far.answered + answers, errors=so_far.errors + failed, buckets=buckets
        )
    it.world.now += 10
    it.world.traffic = Traffic((before, Sample(it.world.now, revisions=after)))
    it.settle()


def test_an_update_that_fails_is_taken_back_and_tried_again_on_request() -> None:
    it = up(3)
    old = it.status["revision"]
    change(it, "d2", replicas=3)
    it.settle()
    new = it.status["revision"]
    make_ready(it)
    told(it, old, new, errors=60)
    assert it.status["revision"] == old
    assert it.status["phase"] == "Degraded"
    assert it.status["reason"] == "Reversed"
    assert "60 of 100 answers failed" in it.status["reversed"][new]["reason"]
    for _ in range(8):
        make_ready(it)
        assert len(addresses(it)) >= 3
        it.pass_time(2)
    assert {key.split("/")[1] for key in it.world.live} == {old}
    assert f"revision {new} was taken back" in it.status["message"]
    settled = it.status
    change(it, "d2", replicas=3)
    it.settle()
    assert {**it.status, "observed_generation": 2} == settled, "a second apply of the same changes nothing"
    it.resource = replace(it.resource, resolved={**it.resource.resolved, "resumed": 1})
    it.settle()
    assert it.status["revision"] == new
    for _ in range(8):
        make_ready(it)
        it.pass_time(2)
    assert (it.status["phase"], {key.split("/")[1] for key in it.world.live}) == ("Running", {new})


def test_it_is_judged_for_a_while_after_the_last_old_replica_has_gone() -> None:
    it = up(1)
    old = it.status["revision"]
    change(it, "d2", replicas=1)
    it.settle()
    new = it.status["revision"]
    make_ready(it)
    it.pass_time(2)
    assert {key.split("/")[1] for key in it.world.live} == {new}
    told(it, old, new, errors=60)
    assert it.status["revision"] == old
    make_ready(it)
    it.pass_time(2)
    assert {key.split("/")[1] for key in it.world.live} == {old}


def test_another_revision_starts_afresh() -> None:
    it = up(1)
    old = it.status["revision"]
    change(it, "d2", replicas=1)
    it.settle()
    make_ready(it)
    told(it, old, it.status["revision"], errors=60)
    change(it, "d3", replicas=1)
    it.settle()
    assert "reversed" not in it.status
    for _ in range(4):
        make_ready(it)
        it.pass_time(2)
    assert it.status["phase"] == "Running"
    assert it.status["revision"] != old
