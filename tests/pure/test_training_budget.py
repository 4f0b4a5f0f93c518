"""What is left of a job in time and money, and the notice that ends it before its budget does."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import job_loop
from tests.simulated import World

from modelworks.kernel.errors import Invalid
from modelworks.kernel.run import Progress, RunObservation, RunPhase, RunReason
from modelworks.products.training import budget, estimates
from modelworks.products.training.budget import Funds, Occupation
from modelworks.products.training.estimates import Past
from modelworks.products.training.progress import STEPS_SEEN, progress, remaining, warnings
from modelworks.products.training.record import Notice
from modelworks.products.training.spec import TrainingJobSpec

amounts = st.floats(0.01, 1e6)
rates = st.floats(0.001, 1e3)
notices = st.floats(0, 3600)
NOW = 1000.0  # small, so that microseconds are seen


def spec(**fields: Any) -> TrainingJobSpec:
    return TrainingJobSpec.parse({"command": "train"} | fields, at="spec")


def run(told: Progress | None, *, ended: bool = False) -> RunObservation:
    phase = RunPhase.EXITED if ended else RunPhase.RUNNING
    return RunObservation(key="abcdef/a1/0/0", phase=phase, created_at=NOW, progress=told)


@given(amount=amounts, rate=rates, notice=notices)
def test_the_notice_begins_in_time_to_be_paid_from_the_budget(amount: float, rate: float, notice: float) -> None:
    job = spec(budget=amount, notice=notice)
    due = budget.due(job, 0.0, rate, (), NOW)
    assert due is not None
    assert due > NOW
    used = rate * (due - NOW) / 3600
    given_notice = budget.noticed(None, job, used + 1e-6 * amount, rate, (), due + 1e-3)
    assert given_notice is not None
    assert given_notice.reason == RunReason.BUDGET
    # Never less than half of it is for work, and what the whole notice costs is there unless it is more than that.
    assert used >= amount / 2 * (1 - 1e-6)
    assert amount - used >= min(rate * notice / 3600, amount / 2) - 1e-9 * amount
    in_all = rate * (given_notice.deadline - NOW) / 3600
    assert in_all <= amount * (1 + 1e-5) + rate * 0.01 / 3600
    assert given_notice.deadline - due <= notice + 0.01


@given(amount=amounts, rate=rates, notice=notices, share=st.floats(0, 0.49))
def test_no_notice_before_half_of_it_is_spent(amount: float, rate: float, notice: float, share: float) -> None:
    assert budget.noticed(None, spec(budget=amount, notice=notice), share * amount, rate, (), NOW) is None


def test_what_was_spent_while_nobody_looked_is_noticed_late_and_told() -> None:
    late = budget.noticed(None, spec(budget=1.0), 3.0, 2.0, (), NOW)
    assert late == Notice("Budget", "its budget of 1.00 is spent: 3.00", NOW, NOW + 30.0)


def test_a_notice_of_a_budget_stays_one() -> None:
    job = spec(budget=1.0)
    ours = Notice("Budget", "money", NOW, NOW + 100)
    other = Notice("Preempted", "drained", NOW, NOW + 10)
    assert budget.evicted(ours, other) == Notice("Budget", "money", NOW, NOW + 10)
    # And a preempted job whose money ends on the way is not queued again.
    found = budget.noticed(other, job, 0.99, 1.0, (), NOW + 1)
    assert found is not None
    assert (found.reason, found.deadline) == ("Budget", NOW + 10)


def test_a_workspace_whose_money_is_spent_has_its_jobs_wait_for_more() -> None:
    funds = Funds(amount=10.0, spent=9.0, per_hour=3600.0, at=NOW, told="the quota all is spent")
    assert budget.noticed(None, spec(), 5.0, 1.0, (funds,), NOW + 0.9) is None
    assert budget.due(spec(), 5.0, 1.0, (funds,), NOW) == NOW + 1.0
    found = budget.noticed(None, spec(), 5.0, 1.0, (funds,), NOW + 1.0)
    assert found == Notice("Preempted", "the quota all is spent", NOW + 1.0, NOW + 181.0)


def test_what_ended_and_is_not_released_yet_costs_nothing_more() -> None:
    rows = [Occupation("a", 3600.0, NOW), Occupation("b", 3600.0, NOW, NOW + 5), Occupation("c", 1.0, NOW + 50)]
    assert budget.spent(rows, {"a": NOW + 2}, NOW + 10) == 7.0
    assert budget.per_hour(rows, {"a": NOW + 2}) == 1.0


def test_time_and_money_to_the_end_once_fifty_steps_are_seen() -> None:
    document = None
    for step in range(0, 121, 10):
        told = Progress(at=NOW + 2 * step, step=step + 7, steps=1007, rates={"samples": 10.0}, metrics={"loss": 0.5})
        document = progress(document, 1, {0: run(told), 1: run(told)}, 18.0)
        assert document is not None
        assert ("remaining" in document) == (step >= STEPS_SEEN)
    assert document is not None
    assert document["remaining"] == {"seconds": 1760, "amount": 8.8}
    assert document["rates"] == {"samples": 20.0}


def test_another_attempt_keeps_what_was_known_until_it_tells_more() -> None:
    first = progress(None, 1, {0: run(Progress(at=NOW, step=10, steps=100))}, 1.0)
    again = progress(first, 2, {0: run(None)}, 1.0)
    assert again is not None
    assert (again["step"], again["attempt"], "first" in again) == (10, 1, False)
    second = progress(again, 2, {0: run(Progress(at=NOW + 9, step=5, steps=100))}, 1.0)
    assert second is not None
    assert (second["attempt"], second["first"]) == (2, {"step": 5, "at": NOW + 9})


@given(
    step=st.integers(0, 10**9),
    steps=st.none() | st.integers(0, 10**9),
    begun=st.integers(0, 10**9),
    took=st.floats(-10, 1e9),
)
def test_what_is_left_is_never_negative(step: int, steps: int | None, begun: int, took: float) -> None:
    left = remaining(Progress(at=NOW + took, step=step, steps=steps), begun, NOW)
    assert left is None or left >= 0


def test_a_job_is_called_input_bound_with_hysteresis() -> None:
    def told(share: float, before: tuple[str, ...] = (), step: int = 100) -> tuple[str, ...]:
        return warnings(before, {"data_share": share, "step": step, "first": {"step": 0, "at": NOW}})

    assert told(0.29) == ()
    on = told(0.62)
    assert on == (
        "input-bound: 62 % of the step waits for the loader; more loader workers, larger files, or a cache would help",
    )
    assert told(0.25, on) != ()
    assert told(0.19, on) == ()
    assert told(0.9, step=5) == ()


def test_an_estimate_knows_spot_prices_limits_and_what_was_before() -> None:
    resolved = {"instance_type": "ecs.g6.large", "price_per_hour": 1.0, "spot_price_per_hour": 0.3}
    usual = estimates.of(spec(replicas=2, time_limit="30m"), resolved, "USD", ())
    assert (usual.price_per_hour, usual.at_most, usual.saving, usual.history) == (2.0, 1.0, None, None)
    before = [Past(60.0, 1.0), Past(80.0, 2.0), Past(7200.0, 90.0)]
    spot = estimates.of(spec(replicas=2, time_limit="2h", spot={}, budget=0.5), resolved, "USD", before)
    assert (spot.price_per_hour, spot.on_demand_per_hour, spot.saving, spot.at_most) == (0.6, 2.0, 0.7, 0.5)
    assert spot.history == estimates.History(jobs=3, seconds=80.0, amount=2.0)


def test_spot_instances_that_cost_more_than_the_limit_are_waited_for() -> None:
    resolved = {"instance_type": "ecs.g6.large", "price_per_hour": 1.0, "spot_price_per_hour": 0.3}
    world = World()
    dear = job_loop.job(spot={"price_limit": 0.2})
    waiting = job_loop.loop(replace(dear, resolved=dear.resolved | resolved), world)
    waiting.settle()
    assert not world.claims
    assert waiting.status["phase"] == "Queued"
    assert waiting.status["message"].startswith("waits for a lower spot price: ecs.g6.large costs 30% of its usual")
    paid = job_loop.loop(
        replace(dear, spec=dear.spec | {"spot": {"price_limit": 0.3}}, resolved=dear.resolved | resolved)
    )
    paid.settle()
    assert [claim.price_per_hour for claim in paid.world.claimed.values()] == [0.3]


def test_numbers_are_found_by_expressions_of_one_group_that_cannot_hang() -> None:
    assert spec(metrics=[{"name": "loss", "regex": "loss=([0-9.]+)"}]).metrics[0].name == "loss"
    for wrong, said in (
        (r"loss", "one group"),
        (r"(a)(b)", "one group"),
        (r"(a)(?=b)", "look-ahead"),
        ("(", "missing )"),
    ):
        with pytest.raises(Invalid, match=re.escape(said)):
            spec(metrics=[{"name": "loss", "regex": wrong}])
