"""The merged traffic of several reporters that come and go."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.control.traffic import TrafficStore
from modelworks.kernel.traffic import LATENCY_BUCKETS, PATIENCE, Traffic

START = 1_800_000_000.0
UID = "abcdef0123456789"


class Lab:
    def __init__(self, *doors: str) -> None:
        self.now = START
        self.woken: list[str] = []
        self.store = TrafficStore(self.woken.append, lambda: self.now)
        self.store.expect(set(doors))

    def report(self, door: str, source: str = "", uid: str | None = UID, **fields: Any) -> None:
        services = {} if uid is None else {uid: document(**fields)}
        self.store.hear(door, {"source": source or f"{door}-1-1799999999", "at": self.now, "services": services})

    def traffic(self, every: float | None = None) -> Traffic:
        return self.store.traffic(UID, every)

    def arrivals(self, seconds: float) -> int:
        found = self.traffic().increase(seconds, self.now)
        assert found is not None
        return found.arrived


def document(
    arrived: int = 0,
    *,
    in_flight: int = 0,
    queued: int = 0,
    errors: int = 0,
    hung: tuple[str, ...] = (),
    unavailable: int = 0,
) -> dict[str, Any]:
    buckets = [0] * (len(LATENCY_BUCKETS) + 1)
    buckets[3] = arrived
    counts = {"answered": arrived, "errors": errors, "seconds": arrived * 0.004, "buckets": buckets}
    return {
        "in_flight": in_flight,
        "queued": queued,
        "oldest": 0.5 if queued else 0.0,
        "arrived": arrived,
        "rejected": {"limit-exceeded": 0, "unavailable": unavailable},
        "hung": list(hung),
        "revisions": {"r1": {**counts, "in_flight": in_flight}},
    }


def test_what_was_counted_before_this_controller_is_no_traffic() -> None:
    lab = Lab("a")
    lab.report("a", arrived=100_000)
    lab.now += 1
    lab.report("a", arrived=100_010)
    assert lab.arrivals(10) == 10


def test_two_gateways_are_one_service() -> None:
    lab = Lab("a", "b")
    for second in range(10):
        lab.now = START + second
        lab.report("a", arrived=10 * second, in_flight=2)
        lab.now += 0.4
        lab.report("b", arrived=5 * second, in_flight=1, queued=3)
    assert lab.arrivals(5.2) in (75, 80, 85, 90)
    last = lab.traffic().last
    assert last is not None
    assert (last.in_flight, last.queued, last.arrived, last.oldest) == (3, 3, 135, 0.5)
    assert last.revisions["r1"].answered == 135
    assert last.revisions["r1"].in_flight == 3
    assert len(lab.traffic().samples) <= 13  # one a second, however many report


def test_a_gateway_that_begins_anew_goes_on_counting() -> None:
    lab = Lab("a")
    lab.report("a", arrived=500)
    lab.now += 1
    lab.report("a", arrived=510)
    lab.now += 1
    lab.store.expect({"a", "a2"})
    lab.report("a2", f"gateway-2-{int(START) + 1}", arrived=3)
    lab.now += 1
    lab.store.expect({"a2"})
    lab.report("a2", f"gateway-2-{int(START) + 1}", arrived=7)
    assert lab.arrivals(60) == 17
    assert lab.traffic().known(lab.now)


def test_a_connection_that_broke_loses_nothing() -> None:
    lab = Lab("a")
    lab.report("a", arrived=500, in_flight=4)
    lab.now += 3
    lab.store.begin("a")
    lab.report("a", arrived=530, in_flight=1)
    assert lab.arrivals(60) == 30
    last = lab.traffic().last
    assert last is not None
    assert last.in_flight == 1


def test_what_a_dead_gateway_held_is_gone() -> None:
    lab = Lab("a", "b")
    lab.report("a", in_flight=5)
    lab.report("b", in_flight=1)
    lab.now += 1
    lab.store.expect({"b"})
    last = lab.traffic().last
    assert last is not None
    assert last.in_flight == 1


def test_a_gap_is_not_silence() -> None:
    lab = Lab("a", "b")
    lab.report("a", uid=None)
    assert not lab.traffic().known(lab.now)  # the other has not said anything
    lab.report("b", uid=None)
    lab.now += 1
    assert lab.traffic().known(lab.now)
    for _ in range(20):
        lab.now += 1
        lab.report("a", uid=None)
    assert not lab.traffic().known(lab.now)
    lab.report("b", uid=None)
    assert lab.traffic().known(lab.now)
    assert not lab.traffic().known(lab.now, 10)  # what happened in between nobody knows
    lab.now += PATIENCE + 1
    assert not lab.traffic().known(lab.now)


def test_who_reports_is_heard_while_another_is_silent() -> None:
    lab = Lab("a", "courier")
    for _ in range(10):
        lab.report("a", arrived=0)  # the other has never said anything
        lab.now += 1
    lab.report("a", arrived=3, queued=1)
    traffic = lab.traffic()
    assert not traffic.known(lab.now)
    assert traffic.heard().known(lab.now, 9)
    assert traffic.last is not None
    assert traffic.last.queued == 1
    lately = traffic.heard().increase(5, lab.now)
    assert lately is not None
    assert lately.arrived == 3
    lab.now += PATIENCE + 1
    assert not lab.traffic().heard().known(lab.now)


def test_what_who_is_silent_said_last_is_not_heard() -> None:
    lab = Lab("a", "b")
    doors = {"a", "b"}
    lab.report("a", arrived=10, in_flight=2)
    lab.report("b", arrived=10, in_flight=30, queued=5)
    for _ in range(int(PATIENCE) + 2):
        lab.now += 1
        lab.report("a", uid=None)
        lab.store.expect(doors)
    last = lab.traffic().last
    assert last is not None
    assert (last.in_flight, last.queued) == (2, 0)
    # It goes on where it was: it tells only of what has changed, and nobody can date what it counted meanwhile.
    lab.report("b", uid=None)
    last = lab.traffic().last
    assert last is not None
    assert (last.in_flight, last.queued) == (32, 5)
    assert lab.traffic().known(lab.now)
    assert not lab.traffic().heard().known(lab.now, 1)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([0.3, 1.0, 2.0, 7.0]), st.integers(0, 9)),
        min_size=2,
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_what_is_heard_is_no_more_than_there_is(steps: list[tuple[str, float, int]]) -> None:
    """Whoever falls silent and comes back: never more in a window than came in it, nor more moments than are held."""
    lab, counts, flights = Lab("a", "b", "c"), {"a": 0, "b": 0, "c": 0}, {"a": 0, "b": 0, "c": 0}
    came: list[tuple[float, float, int]] = []  # since when, when it was told, how many
    told = dict.fromkeys("abc", START)
    for door, wait, more in steps:
        lab.now += wait
        lab.store.expect(set(counts))
        counts[door] += more
        flights[door] = more
        came.append((told[door], lab.now, more))
        told[door] = lab.now
        lab.report(door, f"{door}-1-{int(START)}", arrived=counts[door], in_flight=more)
        traffic = lab.traffic()
        heard = traffic.heard()
        for seconds in (1.0, 6.0):
            lately = heard.increase(seconds, lab.now)
            if lately is not None:
                # A report is of what came since the one before, which may have begun a moment before the window.
                assert lately.arrived <= sum(n for _, until, n in came if until >= lab.now - seconds - PATIENCE - 2)
        assert traffic.last is not None
        assert traffic.last.in_flight <= sum(flights.values())
        assert traffic.last.in_flight >= more


def test_no_gateway_at_all_is_not_silence() -> None:
    lab = Lab()
    assert not lab.traffic().known(lab.now)
    assert lab.traffic().increase(10, lab.now) is None
    assert lab.traffic().demand(10, lab.now) is None


def test_a_service_that_was_never_asked_is_silent() -> None:
    lab = Lab("a")
    for _ in range(30):
        lab.now += 1
        lab.report("a", uid=None)
    found = lab.traffic().increase(10, lab.now)
    assert found is not None
    assert found.rate == 0
    assert lab.traffic().demand(10, lab.now) == 0
    lab.now += 1
    lab.report("a", arrived=5)
    found = lab.traffic().increase(1, lab.now)
    assert found is not None
    assert found.rate == pytest.approx(5)


def test_who_is_woken() -> None:
    lab = Lab("a")
    lab.report("a", arrived=0)
    lab.woken.clear()
    lab.now += 10
    lab.report("a", arrived=1, queued=1)  # after a silence, and nobody serves
    assert lab.woken == [UID]
    for second in range(5):
        lab.now += 1
        lab.report("a", arrived=2 + second, in_flight=1)
    assert lab.woken == [UID]  # nobody is interested in each second
    lab.traffic(every=1.0)
    for second in range(5):
        lab.now += 1
        lab.report("a", arrived=10 + second, in_flight=1)
    assert len(lab.woken) == 6
    lab.traffic()
    lab.now += 0.1
    lab.report("a", arrived=15, in_flight=1, hung=("r1-0-0",))
    assert len(lab.woken) == 7
    lab.now += 1
    lab.report("a", arrived=15, in_flight=1, hung=("r1-0-0",))
    assert len(lab.woken) == 7
    for _ in range(12):
        lab.now += 1
        lab.report("a", arrived=16, in_flight=1, errors=1, hung=("r1-0-0",))
    assert len(lab.woken) == 8
    for _ in range(12):
        lab.now += 1
        lab.report("a", arrived=16, in_flight=1, errors=1, hung=("r1-0-0",), unavailable=3)
    assert len(lab.woken) == 9  # nobody answers them


def test_samples_are_thinned_and_bounded() -> None:
    lab = Lab("a")
    for second in range(3000):
        lab.now = START + second
        lab.report("a", arrived=second * 7, in_flight=second % 5)
    traffic = lab.traffic()
    assert len(traffic.samples) <= 330
    assert traffic.samples[0].at <= lab.now - 300
    for seconds in (1, 15, 60, 300):
        found = traffic.increase(seconds, lab.now)
        assert found is not None
        assert found.rate == pytest.approx(7, rel=0.1)


def test_what_is_gone_is_forgotten_and_may_come_back_from_zero() -> None:
    lab = Lab("a")
    lab.report("a", arrived=0)
    for second in range(1, 20):
        lab.now = START + second
        lab.report("a", arrived=second, in_flight=2)
    lab.traffic(every=1.0)
    lab.store.hear("a", {"source": "a-1-1799999999", "at": lab.now, "services": {}, "gone": [UID, "unknown"]})
    last = lab.traffic().last
    assert last is not None
    assert (last.in_flight, last.arrived) == (0, 19)
    lab.now += 1
    lab.report("a", arrived=3)
    assert lab.arrivals(60) == 22
    lab.store.hear("a", {"source": "a-1-1799999999", "at": lab.now, "services": {}, "gone": [UID]})
    lab.report("a", uid="other", arrived=1)
    for _ in range(720):
        lab.now += 1
        lab.report("a", uid=None)
        lab.store.expect({"a"})
    store = lab.store
    held = [
        store._samples.keys(),
        store._woken.keys(),
        store._every.keys(),
        *(c.keys() for c in store._counters.values()),
    ]
    assert [keys - {"other"} for keys in held] == [set()] * 4
    # An idle service that is still told of counts on from where it was.
    lab.report("a", uid="other", arrived=3)
    found = store.peek("other").increase(60, lab.now)
    assert found is not None
    assert found.arrived == 2


def test_revisions_of_long_ago_are_in_no_sample() -> None:
    lab, names = Lab("a"), [f"r{number}" for number in range(40)]
    for second in range(4000):
        lab.now = START + second
        current = names[second // 100]
        told = document(second * 5)
        told["revisions"] = {current: told["revisions"]["r1"] | {"answered": (second % 100) * 5}}
        lab.store.hear("a", {"source": "a-1-1799999999", "at": lab.now, "services": {UID: told}})
    traffic = lab.traffic()
    assert all(len(sample.revisions) <= 12 for sample in traffic.samples)
    found = traffic.increase(60, lab.now)
    assert found is not None
    assert found.all.answered == pytest.approx(300, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 20), st.booleans(), st.floats(0.01, 2)), max_size=60
    )
)
def test_sums_only_grow_and_nothing_is_counted_twice(steps: list[tuple[str, int, bool, float]]) -> None:
    lab = Lab("a", "b", "c")
    lives, counts, total = {"a": 0, "b": 0, "c": 0}, {"a": 0, "b": 0, "c": 0}, 0
    for door in lives:
        lab.report(door, f"{door}-0-{START + 1:.0f}", arrived=0)
    seen = 0
    for door, more, anew, pause in steps:
        lab.now += pause
        if anew:
            lives[door] += 1
            counts[door] = 0
            lab.store.begin(door)
        counts[door] += more
        total += more
        lab.report(door, f"{door}-{lives[door]}-{START + 1:.0f}", arrived=counts[door])
        last = lab.traffic().last
        assert last is not None
        assert last.arrived >= seen
        seen = last.arrived
        times = [sample.at for sample in lab.traffic().samples]
        assert times == sorted(times)
    assert seen == total
