"""Admission as a state machine: limits hold, nobody is lost, the first in line is the first in."""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelworks.gateway.admission import Admission, Refused
from modelworks.gateway.door import Door
from modelworks.gateway.lanes import Slot
from modelworks.gateway.table import Mirror, Replica, Route


class NoPool:
    """Admission never goes through a door."""


def door(replica: Replica) -> Door:
    return Door(NoPool(), b"", b"")  # type: ignore[arg-type]


def route(*replicas: Replica, **changes: Any) -> Route:
    return Route("s", "u", "ready", "", (), replicas, **{"concurrency": 2, "queue_size": 3, **changes})


def replicas(count: int, revision: str = "r", **changes: Any) -> list[Replica]:
    return [Replica(f"{revision}-{i}", f"unix:/r/{revision}{i}", revision, **changes) for i in range(count)]


class Request:
    def __init__(self, number: int = 0, until: float = 0.0) -> None:
        self.number = number
        self.until = until
        self.slot: Slot | None = None
        self.late = False

    def __repr__(self) -> str:
        return f"<{self.number}>"

    def granted(self, slot: Slot) -> None:
        assert self.slot is None
        assert not self.late
        self.slot = slot

    def expired(self, due: float) -> None:
        self.late = True

    def dismissed(self) -> None: ...


WEIGHTS: list[dict[str, int]] = [{}, {"a": 100}, {"a": 50, "b": 50}, {"a": 90, "b": 10}, {"a": 100, "b": 0}, {"c": 100}]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.route = route(*replicas(2, "a"))
        self.limits: dict[str, int] = {}  # what each replica may have had lately
        self.most: int | None = None
        self.admission = Admission(door, self.route, shuffle=random.Random(7).shuffle)
        self.waiting: list[Request] = []
        self.inside: list[Request] = []
        self.copies: list[Slot] = []
        self.number = 0

    def settle(self) -> None:
        """Whoever was granted a slot came from the front of the line of its revision."""
        granted = [r for r in self.waiting if r.slot is not None]
        for request in granted:
            assert request.until >= self.now, "was let in after its time"
        if len({slot.lane.name for slot in self.admission.slots}) <= 1 and self.route.weights == {}:
            assert granted == [r for r in self.waiting if not r.late][: len(granted)]
        self.waiting = [r for r in self.waiting if r.slot is None and not r.late]
        self.inside += granted

    @rule(patience=st.floats(0.1, 10), timeout=st.none() | st.floats(0, 5), key=st.none() | st.binary(max_size=2))
    def arrive(self, patience: float, timeout: float | None, key: bytes | None) -> None:
        self.number += 1
        request = Request(self.number, self.now + min(patience, timeout if timeout is not None else patience))
        wanted = None if timeout is None else self.now + timeout
        try:
            slot = self.admission.enter(request, self.now, self.now + patience, wanted=wanted, key=key)
        except Refused as refused:
            refusal: Refused | None = refused
        else:
            refusal = None
        if refusal is not None:
            assert not refusal.full or len(self.waiting) >= self.route.queue_size
            assert 1 <= refusal.retry_after <= 60
        elif slot is None:
            assert self.admission.queued <= self.route.queue_size
            self.waiting.append(request)
        else:
            assert timeout is None or timeout > 0
            request.slot = slot
            self.inside.append(request)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), held=st.floats(0, 100), good=st.booleans(), late=st.sampled_from((0.0, 3.0)))
    def leave(self, data: st.DataObject, held: float, good: bool, late: float) -> None:
        self.now += late  # the loop was held up: whose time is over meanwhile is in the queue still
        request = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        assert request.slot is not None
        self.admission.release(request.slot, self.now, held, good)
        self.settle()

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def refused_by_replica(self, data: st.DataObject) -> None:
        request = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        slot, request.slot = request.slot, None
        assert slot is not None
        self.admission.suspect(slot, self.now)
        self.admission.release(slot, self.now, None)
        self.settle()
        request.until = self.now + 5
        again = self.admission.reenter(request, self.now, request.until)
        if again is None:
            self.waiting.insert(0, request)
        else:
            assert again is not slot
            request.slot = again
            self.inside.append(request)

    @rule()
    def copy(self) -> None:
        mirror = self.route.mirror
        before = self.admission.in_flight
        if mirror is not None and (slot := self.admission.take_aside(mirror.revision, self.now)) is not None:
            self.copies.append(slot)
        assert self.admission.in_flight == before

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def copy_ends(self, data: st.DataObject) -> None:
        slot = self.copies.pop(data.draw(st.integers(0, len(self.copies) - 1)))
        self.admission.release(slot, self.now, 1.0, False, True)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        request = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.admission.cancel(request)
        assert not self.admission.cancel(request)

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        due = self.admission.due()
        late = self.admission.expire(self.now)
        assert bool(late) == (due is not None and due <= self.now)
        assert all(isinstance(r, Request) and r.slot is None for r in late)
        self.waiting = [r for r in self.waiting if r not in late]
        self.admission.sweep(self.now)
        self.settle()

    @precondition(lambda self: self.admission.slots)
    @rule(data=st.data())
    def hangs_or_comes_back(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.admission.slots))
        if slot.hung:
            self.admission.revive(slot, self.now)
        else:
            slot.hung = slot.watched = True
            self.admission.shut(slot, self.now)
        self.settle()

    @rule(
        counts=st.tuples(st.integers(0, 2), st.integers(0, 2)),
        concurrency=st.integers(1, 3),
        queue=st.integers(0, 4),
        weights=st.sampled_from(WEIGHTS),
        most=st.none() | st.integers(1, 3),
        mirror=st.booleans(),
        own=st.none() | st.integers(1, 4),
        slow=st.booleans(),
    )
    def table_changes(
        self,
        counts: tuple[int, int],
        concurrency: int,
        queue: int,
        weights: dict[str, int],
        most: int | None,
        mirror: bool,
        own: int | None,
        slow: bool,
    ) -> None:
        self.route = route(
            *replicas(counts[0], "a", limit=own), *replicas(counts[1], "b", slow=slow),
            concurrency=concurrency, queue_size=queue, weights=weights, concurrency_limit=most,
            mirror=Mirror("b", 50) if mirror else None,
        )  # fmt: skip
        left = self.admission.update(self.route, self.now)
        assert all(slot.removed for slot in left)
        self.limits = {slot.replica.id: slot.in_flight for slot in self.admission.slots}
        self.most = self.admission.in_flight
        self.settle()

    @invariant()
    def limits_hold_and_counts_agree(self) -> None:
        for slot in self.admission.slots:
            copies = sum(copy is slot for copy in self.copies)
            assert slot.in_flight == sum(r.slot is slot for r in self.inside) + copies
            assert slot.copies == copies
            assert slot.limit <= slot.ceiling <= self.route.concurrency
            assert 0 <= slot.in_flight <= max(slot.limit, self.limits.get(slot.replica.id, 0))
        most = self.route.concurrency_limit
        assert self.admission.in_flight == len(self.inside)  # at replicas that have left the table, too
        assert most is None or len(self.inside) <= max(most, self.most or 0)
        assert self.admission.queued == len(self.waiting)

    @invariant()
    def nobody_waits_while_a_slot_is_free_for_them(self) -> None:
        most = self.route.concurrency_limit
        if not self.waiting or (most is not None and self.admission.in_flight >= most):
            return
        for request in self.waiting:
            lane = self.admission._places[request].lane
            assert not any(s.open and s.in_flight < s.limit for s in lane.slots)
            if not lane.usable:
                # And nobody waits for a revision that cannot answer while another one that takes requests could.
                assert not any(other.usable for other in self.admission._lanes.values())

    @invariant()
    def who_has_no_weight_gets_nothing(self) -> None:
        for slot in self.admission.slots:
            weights = self.route.weights
            if any(weights.values()) and weights.get(slot.replica.revision) == 0:
                assert not any(slot in lane.slots for lane in self.admission._lanes.values())


TestAdmission = Machine.TestCase
TestAdmission.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def full(admission: Admission, now: float = 0.0) -> list[Slot]:
    """Take every slot."""
    slots = []
    while (slot := admission.take(now)) is not None:
        slots.append(slot)
    return slots


def test_a_stopped_service_empties_its_queue() -> None:
    admission = Admission(door, route())
    waiting = [Request(i) for i in range(3)]
    for request in waiting:
        assert admission.enter(request, 0.0, 5.0) is None
    assert admission.flush() == waiting
    assert admission.queued == 0
    assert admission.due() is None


def enter(admission: Admission, now: float, wanted: float) -> Refused | None:
    try:
        assert admission.enter(Request(), now, now + 30.0, wanted=wanted) is None
    except Refused as refused:
        return refused
    return None


def serve(admission: Admission, slots: list[Slot], now: float, every: float, seconds: float, held: float) -> float:
    """The replicas answer one request each ``every`` seconds, for so long."""
    end = now + seconds
    while now < end:
        now += every
        slot = slots.pop(0)
        admission.release(slot, now, held, True)
        slots.append(slot)
        if slot.in_flight < slot.limit:
            admission.take(now)
    return now


def test_retry_after_follows_the_time_that_requests_take() -> None:
    admission = Admission(door, route(*replicas(1), concurrency=1, queue_size=0))
    assert admission.retry_after() == 1
    now = 0.0
    for _ in range(50):
        slot = admission.take(now)
        assert slot is not None
        now += 20.0
        admission.release(slot, now, 20.0, True)
    assert 15 <= admission.retry_after() <= 20


def test_what_cannot_make_its_deadline_is_refused_at_once() -> None:
    admission = Admission(door, route(*replicas(1), concurrency=16, queue_size=1000))
    slots = full(admission)
    now = serve(admission, slots, 0.0, 0.01, 3.0, 0.16)  # 100 a second
    refusals = [enter(admission, now, now + 2.0) for _ in range(1000)]
    let_in = refusals.count(None)
    assert 150 <= let_in <= 300  # 2 s of it, and some that might just make it
    assert refusals[:let_in] == [None] * let_in
    assert not any(refused.full for refused in refusals if refused is not None)
    assert admission.enter(Request(), now, now + 30.0) is None  # there is time enough for one that asks for none


def test_a_young_estimate_refuses_nobody() -> None:
    admission = Admission(door, route(*replicas(1), concurrency=1, queue_size=1000))
    slot = admission.take(0.0)
    assert slot is not None
    admission.release(slot, 5.0, 5.0, True)  # a first request that took long
    full(admission, 5.0)
    for _ in range(1000):
        assert admission.enter(Request(), 5.0, 35.0) is None


def test_a_stall_is_not_the_new_normal() -> None:
    admission = Admission(door, route(*replicas(1), concurrency=16, queue_size=1000))
    slots = full(admission)
    now = serve(admission, slots, 0.0, 0.01, 3.0, 0.16)
    for slot in slots:
        admission.release(slot, now + 10.0, 10.0, True)  # all at once after ten seconds
    full(admission, now + 10.0)
    for _ in range(900):
        assert admission.enter(Request(), now + 10.0, now + 40.0) is None


def test_shares_are_exact_over_a_deck_and_a_full_revision_holds_nobody_else_up() -> None:
    two = (*replicas(1, "a"), *replicas(1, "b"))
    admission = Admission(door, route(*two, weights={"a": 75, "b": 25}, concurrency=1000, queue_size=1000))
    taken = [admission.take(0.0) for _ in range(400)]
    names = [slot.replica.revision for slot in taken if slot is not None]
    assert (names.count("a"), names.count("b")) == (300, 100)

    admission = Admission(door, route(*two, weights={"a": 50, "b": 50}, concurrency=1, queue_size=1000))
    slots = full(admission)
    first = {slot.replica.revision: slot for slot in slots}
    while len(first) < 2:  # the other one's turn may come only after some have queued
        slot = admission.enter(Request(), 0.0, 9.0)
        if slot is not None:
            first[slot.replica.revision] = slot
    waiting = [Request(i) for i in range(100)]
    for request in waiting:
        assert admission.enter(request, 0.0, 9.0) is None
    queued = admission.queued
    served = 0
    while admission.queued and served < 200:
        before = admission.queued
        admission.release(first["b"], 1.0, 1.0, True)
        served += 1
        if admission.queued == before:
            break
        # It is the same slot again: its revision's queue alone moves.
    assert served >= queued // 3
    assert all(r.slot is None or r.slot.replica.revision == "b" for r in waiting)


def test_shares_stay_exact_when_the_table_is_told_again_and_a_replica_goes_and_returns() -> None:
    two = (*replicas(1, "a"), *replicas(1, "b"))
    told = route(*two, weights={"a": 90, "b": 10}, concurrency=1000, queue_size=1000)
    admission = Admission(door, told)
    names: list[str] = []
    for count in range(200):
        if count % 7 == 3:
            admission.update(told, 0.0)
        if count % 23 == 9:
            admission.update(route(two[0], weights={"a": 90, "b": 10}, concurrency=1000, queue_size=1000), 0.0)
            slot = admission.take(0.0)
            assert slot is not None
            assert slot.replica.revision == "a"
            admission.update(told, 0.0)
        if count % 11 == 5:
            away = next(slot for slot in admission.slots if slot.replica.revision == "b")
            admission.shut(away, 0.0)
            slot = admission.take(0.0)
            assert slot is not None
            assert slot.replica.revision == "a"
            admission.reopen(away, 0.0)
        slot = admission.take(0.0)
        assert slot is not None
        names.append(slot.replica.revision)
    assert [names[start : start + 10].count("b") for start in range(0, 200, 10)] == [1] * 20


def test_the_share_of_a_revision_without_an_open_replica_goes_to_the_others() -> None:
    two = (*replicas(1, "a"), *replicas(1, "b"))
    admission = Admission(door, route(*two, weights={"a": 50, "b": 50}, concurrency=5))
    slot = next(slot for slot in admission.slots if slot.replica.revision == "a")
    admission.suspect(slot, 0.0)
    taken = full(admission)
    assert [slot.replica.revision for slot in taken] == ["b"] * 5
    waiter = Request()
    assert admission.enter(waiter, 0.0, 9.0) is None
    admission.shut(taken[0], 0.0)
    admission.sweep(0.5)  # the first one may be tried again
    assert waiter.slot is slot


def test_one_that_is_fed_slowly() -> None:
    admission = Admission(door, route(*replicas(1, slow=True), concurrency=8))
    (slot,) = admission.slots
    limits = []
    for _ in range(20):
        for taken in full(admission):
            admission.release(taken, 0.0, 0.1, True)
        limits.append(slot.limit)
    assert limits[:4] == [2, 4, 8, 8]
    admission.update(route(*replicas(1), concurrency=8), 0.0)
    assert admission.slots == (slot,)  # the same replica, with its connections
    assert slot.limit == 8


def test_a_copy_takes_a_free_slot_of_the_mirror_and_no_other() -> None:
    two = (*replicas(1, "a"), *replicas(1, "b"))
    admission = Admission(door, route(*two, weights={"a": 100, "b": 0}, mirror=Mirror("b", 100), concurrency=1))
    slot = admission.take_aside("b", 0.0)
    assert slot is not None
    assert slot.replica.revision == "b"
    assert admission.take_aside("b", 0.0) is None
    assert [s.replica.revision for s in full(admission)] == ["a"]


def test_copies_for_a_mirror_take_nothing_of_the_limit_over_all_replicas() -> None:
    two = (*replicas(1, "a"), *replicas(1, "b"))
    admission = Admission(door, route(*two, weights={"a": 100}, mirror=Mirror("b", 100), concurrency_limit=2))
    copies = [admission.take_aside("b", 0.0) for _ in range(2)]
    assert None not in copies
    assert admission.in_flight == 0
    assert len(full(admission)) == 2
    for slot in copies:
        assert slot is not None
        admission.release(slot, 1.0, 1.0, True, True)
    assert admission.take_aside("b", 1.0) is not None  # nor does the limit, which callers have reached, hold copies up
    assert admission.in_flight == 2


def test_requests_at_replicas_that_drain_count_for_the_limit_over_all_replicas() -> None:
    admission = Admission(door, route(*replicas(2, "old"), concurrency_limit=3))
    draining = full(admission)
    assert len(draining) == 3
    admission.update(route(*replicas(2, "new"), concurrency_limit=3), 0.0)
    waiter = Request()
    assert admission.enter(waiter, 0.0, 9.0) is None
    admission.release(draining.pop(), 1.0, 1.0, True)
    assert waiter.slot is not None
    assert waiter.slot.replica.revision == "new"
    assert admission.take(1.0) is None
    admission.sweep(1.0)
    assert admission.in_flight == 3
    for slot in draining:
        admission.release(slot, 2.0, 2.0, True)
    admission.sweep(2.0)
    assert (admission.in_flight, admission.leaving) == (1, [])


def test_times_of_those_who_have_left_are_not_kept() -> None:
    admission = Admission(door, route(*replicas(1), concurrency=1, queue_size=10))
    full(admission)
    for _ in range(1000):
        request = Request()
        assert admission.enter(request, 0.0, 1000.0) is None
        admission.due()
        assert admission.cancel(request)
    assert len(admission._times) < 200


class Load:
    """Requests at ``rate`` a second, each of which takes ``held`` seconds of a slot, for so long as is asked for."""

    def __init__(self, admission: Admission, held: float) -> None:
        self.admission = admission
        self.held = held
        self.now = 0.0
        self.most = 0
        self._ends: list[tuple[float, int, Slot]] = []
        self._queue: deque[Request] = deque()
        self._number = 0

    def offer(self, rate: float, seconds: float) -> int:
        """How many were refused."""
        refused, due, end = 0, self.now, self.now + seconds
        while due < end:
            due += 1.0 / rate
            self.until(due)
            self._number += 1
            request = Request(self._number, due + 30.0)
            try:
                slot = self.admission.enter(request, due, due + 30.0)
            except Refused:
                refused += 1
                continue
            if slot is None:
                self._queue.append(request)
                self.most = max(self.most, self.admission.queued)
            else:
                self._begin(slot, due)
        return refused

    def until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            at, _, slot = heapq.heappop(self._ends)
            self.admission.release(slot, at, self.held, True)
            while self._queue and (granted := self._queue[0].slot) is not None:
                self._queue.popleft()
                self._begin(granted, at)
        self.now = now

    def _begin(self, slot: Slot, now: float) -> None:
        self._number += 1
        heapq.heappush(self._ends, (now + self.held, self._number, slot))


@settings(max_examples=5, deadline=None)
@given(held=st.floats(0.01, 0.1), count=st.integers(1, 2), calm=st.floats(0.2, 0.9))
def test_twice_the_load_for_two_seconds_is_delayed_however_fast_the_replicas_are(
    held: float, count: int, calm: float
) -> None:
    rate = 16 * count / held  # requests a second: 160 to 3,200
    load = Load(Admission(door, route(*replicas(count), concurrency=16, queue_size=1000, queue_grows=True)), held)
    assert load.offer(calm * rate, 1.0 + 10 / rate) == 0
    assert load.offer(2 * rate, 2.0) == 0
    # A flood is refused nevertheless, when the rate has been seen.
    load.until(load.now + 10.0)
    load.offer(5 * rate, 2.0)
    assert load.offer(5 * rate, 0.2) > 0 or rate < 200
    assert load.most <= max(1000, 4 * rate)


def test_a_queue_of_a_size_that_was_given_does_not_grow() -> None:
    load = Load(Admission(door, route(*replicas(1), concurrency=16, queue_size=1000)), 0.003)
    load.offer(3000, 1.0)
    assert load.offer(12_000, 1.0) > 0
    assert load.most == 1000


def test_the_time_between_two_bursts_is_no_slow_queue() -> None:
    admission = Admission(door, route(*replicas(1), concurrency=16, queue_size=1000))
    for burst in range(6):
        now = 10.0 * burst
        for request in (requests := [Request(i) for i in range(100)]):  # 0.35 s of work, wanted within 2 s
            request.slot = admission.enter(request, now, now + 30.0, wanted=now + 2.0)
        while inside := [request for request in requests if request.slot is not None]:
            now += 0.05
            for request in inside:
                requests.remove(request)
                assert request.slot is not None
                admission.release(request.slot, now, 0.05, True)
        assert not requests
