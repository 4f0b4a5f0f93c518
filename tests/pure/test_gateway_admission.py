"""Admission as a state machine: limits hold, nobody is lost, the first in line is the first in."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelworks.gateway.admission import Admission, QueueFull, Slot
from modelworks.gateway.door import Door
from modelworks.gateway.table import Replica


class NoPool:
    """Admission never goes through a door."""


def door(replica: Replica) -> Door:
    return Door(NoPool(), b"", b"")  # type: ignore[arg-type]


class Request:
    def __init__(self, number: int) -> None:
        self.number = number
        self.slot: Slot | None = None
        self.granted_order: list[Request] | None = None

    def granted(self, slot: Slot) -> None:
        assert self.slot is None
        self.slot = slot
        if self.granted_order is not None:
            self.granted_order.append(self)

    def expired(self) -> None: ...
    def dismissed(self) -> None: ...


def replicas(count: int) -> list[Replica]:
    return [Replica(f"{i}-0", f"unix:/r/{i}", "r") for i in range(count)]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.limit = 2
        self.admission = Admission(door, queue_size=3, queue_timeout=5)
        self.admission.update(replicas(2), concurrency=2, queue_size=3, queue_timeout=5)
        self.waiting: list[Request] = []
        self.inside: list[Request] = []
        self.number = 0
        self.retry_after = 1

    def settle(self) -> None:
        """Whoever was granted a slot came from the front of the line."""
        granted = [r for r in self.waiting if r.slot is not None]
        assert granted == self.waiting[: len(granted)]
        self.waiting = self.waiting[len(granted) :]
        self.inside += granted

    @rule()
    def arrive(self) -> None:
        self.number += 1
        request = Request(self.number)
        try:
            slot = self.admission.enter(request, self.now)
        except QueueFull as full:
            assert len(self.waiting) >= self.admission.queue_size
            self.retry_after = full.retry_after
            return
        if slot is None:
            self.waiting.append(request)
        else:
            assert not self.waiting, "overtook somebody who waits"
            request.slot = slot
            self.inside.append(request)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), held=st.floats(0, 100))
    def leave(self, data: st.DataObject, held: float) -> None:
        request = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        assert request.slot is not None
        self.admission.release(request.slot, held)
        self.settle()

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def refused_by_replica(self, data: st.DataObject) -> None:
        request = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        slot, request.slot = request.slot, None
        assert slot is not None
        self.admission.suspect(slot, self.now)
        self.admission.release(slot, None)
        self.settle()
        again = self.admission.reenter(request, self.now + 5)
        if again is None:
            self.waiting.insert(0, request)
        else:
            assert again is not slot
            request.slot = again
            self.inside.append(request)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        request = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.admission.cancel(request)
        assert not self.admission.cancel(request)

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        late = self.admission.expire(self.now)
        assert all(r.slot is None for r in self.waiting if r in late)
        self.waiting = [r for r in self.waiting if r not in late]
        self.settle()

    @rule(count=st.integers(0, 3), concurrency=st.integers(1, 3), queue=st.integers(0, 4))
    def table_changes(self, count: int, concurrency: int, queue: int) -> None:
        left = self.admission.update(replicas(count), concurrency=concurrency, queue_size=queue, queue_timeout=5)
        assert all(slot.removed for slot in left)
        self.limit = max(concurrency, self.limit if any(s.in_flight > concurrency for s in self.admission.slots) else 0)
        self.settle()

    @invariant()
    def limits_hold_and_counts_agree(self) -> None:
        for slot in self.admission.slots:
            assert slot.in_flight == sum(r.slot is slot for r in self.inside)
            assert 0 <= slot.in_flight <= max(slot.limit, self.limit)
        assert self.admission.queued == len(self.waiting)
        assert 1 <= self.retry_after <= 60

    @invariant()
    def nobody_waits_while_a_slot_is_free(self) -> None:
        if self.waiting:
            assert not any(s.open and s.in_flight < s.limit for s in self.admission.slots)


TestAdmission = Machine.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_stopped_service_empties_its_queue() -> None:
    admission = Admission(door, queue_size=3, queue_timeout=5)
    waiting = [Request(i) for i in range(3)]
    for request in waiting:
        assert admission.enter(request, 0.0) is None
    assert admission.flush() == waiting
    assert admission.queued == 0


def test_retry_after_follows_the_time_that_requests_take() -> None:
    admission = Admission(door, queue_size=0, queue_timeout=5)
    admission.update(replicas(1), concurrency=1, queue_size=0, queue_timeout=5)
    assert admission.retry_after() == 1
    for _ in range(50):
        slot = admission.enter(Request(0), 0.0)
        assert slot is not None
        admission.release(slot, 20.0)
    assert 15 <= admission.retry_after() <= 20
