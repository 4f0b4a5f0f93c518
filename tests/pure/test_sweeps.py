"""Decisions about sweeps, against a model of the world in which passes die half way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.kernel.decision import CancelChild, CreateChild, DropTrials, Remove, RemoveChild, TuneTrials
from modelworks.kernel.errors import Invalid
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.sweeps.budget import Purse
from modelworks.products.sweeps.decide import decide
from modelworks.products.sweeps.observe import Child, SweepObserved, Trial
from modelworks.products.sweeps.spec import SweepSpec

NOW = datetime(2026, 1, 31, tzinfo=UTC)
BASE: dict[str, Any] = {
    "job": {"command": "true"},
    "parameters": {"x": {"type": "float", "low": 0, "high": 1}},
    "objective": {"metric": "loss"},
}


def spec(**fields: Any) -> SweepSpec:
    return SweepSpec.parse({**BASE, **fields}, at="spec")


@dataclass
class World:
    """Trials and jobs as database and platform hold them; ``jobs_made`` counts what was ever begun, by name."""

    resource: Resource
    trials: dict[int, Trial] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    jobs_made: dict[str, int] = field(default_factory=dict)
    last_stop: int = 0
    now: float = NOW.timestamp()
    removed: bool = False
    costs: dict[str, float] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    dropped: bool | None = None

    @classmethod
    def of(cls, wanted: SweepSpec) -> World:
        ref = Ref("default", "Sweep", "s")
        return cls(Resource("u" * 16, ref, 1, wanted.dump(), NOW, NOW))

    @property
    def going(self) -> list[Child]:
        return [child for child in self.children.values() if child.phase in ("", "Running", "Cancelling")]

    def step(self, survive: int = 1000) -> float | None:
        """One pass; only the first ``survive`` actions are carried out, and the status only if all were."""
        self.now += 1
        open_names = {f"s-{trial.number}" for trial in self.trials.values() if not trial.ended}
        deleting = self.resource.deleting is not None
        children = {name: child for name, child in self.children.items() if deleting or name in open_names}
        trials = tuple(self.trials[number] for number in sorted(self.trials))
        decision = decide(
            self.resource,
            SweepObserved(trials, children, self.last_stop, self.costs, frozenset(self.taken & open_names)),
            datetime.fromtimestamp(self.now, UTC),
        )
        for action in decision.actions[:survive]:
            self.carry_out(action)
        if len(decision.actions) <= survive:
            status = {**decision.status, "observed_generation": self.resource.generation}
            self.resource = replace(self.resource, status=status)
        return decision.wake_in

    def carry_out(self, action: object) -> None:
        match action:
            case CreateChild(_, name, made, labels):
                assert name not in self.taken
                assert labels["modelworks/trial"] == name.rpartition("-")[2]
                assert made["hyperparameters"]
                if name not in self.children:
                    self.children[name] = Child(name)
                    self.jobs_made[name] = self.jobs_made.get(name, 0) + 1
            case CancelChild(_, name, reason):
                assert reason
                if self.children[name].phase in ("", "Running"):
                    self.children[name] = replace(self.children[name], phase="Cancelling")
            case RemoveChild(_, name):
                self.children[name] = replace(self.children[name], deleting=True)
            case TuneTrials(_, results, reports, wishes):
                for report in reports:
                    trial = self.trials[report.number]
                    if not trial.ended:
                        self.trials[report.number] = replace(trial, step=report.step, value=report.value)
                for result in results:
                    trial = self.trials[result.number]
                    if not trial.ended:
                        self.trials[result.number] = replace(trial, state=result.state, value=result.value)
                for wish in wishes:
                    drawn = wish.fixed if wish.fixed is not None else {"x": wish.number / 100}
                    self.trials.setdefault(wish.number, Trial(wish.number, drawn, "running"))
            case DropTrials(known):
                self.dropped = known
                self.trials.clear()
            case Remove():
                self.removed = True

    def work(self, draw: int) -> None:
        """One of the jobs does something."""
        if not self.going:
            return
        for child in self.going:
            self.costs[child.name] = self.costs.get(child.name, 0.0) + 1.0
        child = self.going[draw % len(self.going)]
        if child.phase == "Cancelling":
            ended = replace(child, phase="Cancelled")
        else:
            step = int(child.progress.get("step", 0)) + 1
            progress = {"step": step, "metrics": {"loss": 1.0 / step}}
            phases = ("Running", "Running", "Succeeded", "Failed", "Cancelled")
            ended = replace(child, phase=phases[draw // 7 % 5], progress=progress, message="told")
        self.children[child.name] = ended


def finish(world: World) -> None:
    for draw in range(2000):
        world.step()
        if world.resource.status["phase"] in ("Succeeded", "Failed", "Stopped"):
            return
        world.work(14 if draw % 2 else draw)
    raise AssertionError(world.resource.status)


@settings(max_examples=150, deadline=None)
@given(
    draws=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1000)), max_size=60),
    parallel=st.integers(1, 4),
    trials=st.integers(1, 9),
    failures=st.none() | st.integers(0, 3),
    stop=st.none() | st.integers(0, 60),
)
def test_no_trial_is_lost_doubled_or_too_many_whoever_is_killed_when(
    draws: list[tuple[int, int]], parallel: int, trials: int, failures: int | None, stop: int | None
) -> None:
    extra = {} if failures is None else {"failures": failures}
    world = World.of(spec(parallel=parallel, trials=trials, **extra))
    ended: dict[int, Trial] = {}
    for turn, (survive, draw) in enumerate(draws):
        if turn == stop:
            world.last_stop += 1
        world.step(survive)
        world.work(draw)
        assert len(world.going) <= parallel
        assert len(world.trials) <= trials
        assert set(world.jobs_made.values()) <= {1}
        for number, trial in ended.items():
            assert world.trials[number] == trial
        ended = {number: trial for number, trial in world.trials.items() if trial.ended}
    finish(world)
    assert sorted(world.trials) == list(range(len(world.trials)))
    assert all(trial.ended for trial in world.trials.values())
    assert world.going == []
    failed = sum(trial.state == "failed" for trial in world.trials.values())
    status = world.resource.status
    if status.get("ending") is None:
        assert len(world.trials) == trials
        assert failures is None or failed <= failures
    elif status["ending"] == "Failures":
        assert failed > (failures or 0)
        assert status["phase"] == "Failed"


def test_more_trials_begin_a_sweep_again_and_none_of_the_first_is_repeated() -> None:
    world = World.of(spec(trials=2))
    finish(world)
    first = dict(world.trials)
    world.resource = replace(world.resource, generation=2, spec=spec(trials=4).dump())
    finish(world)
    assert {number: world.trials[number] for number in first} == first
    assert len(world.trials) == 4
    assert set(world.jobs_made.values()) == {1}


def test_a_stopped_sweep_goes_on_when_it_is_changed_after_that() -> None:
    world = World.of(spec(trials=3))
    world.step()
    world.last_stop += 1
    finish(world)
    assert world.resource.status["phase"] == "Stopped"
    world.resource = replace(world.resource, generation=2, spec=spec(trials=4).dump())
    finish(world)
    assert world.resource.status["phase"] == "Succeeded"


def test_a_pruned_trial_is_cancelled_and_shows_as_pruned() -> None:
    world = World.of(spec(trials=1, algorithm="asha"))
    world.step()
    world.step()
    world.children["s-0"] = Child("s-0", "Running", progress={"step": 5, "metrics": {"loss": 2.0}})
    world.step()
    world.trials[0] = replace(world.trials[0], prune=True)
    world.step()
    assert world.children["s-0"].phase == "Cancelling"
    world.children["s-0"] = replace(world.children["s-0"], phase="Cancelled")
    world.step()
    assert world.trials[0].state == "pruned"
    world.step()
    assert world.resource.status["reason"] == "NoResult"


def test_a_job_that_reports_nothing_or_is_deleted_makes_a_failed_trial() -> None:
    world = World.of(spec(trials=2))
    world.step()
    world.step()
    world.children["s-0"] = Child("s-0", "Succeeded")
    world.step()
    world.step()
    assert world.trials[0].state == "failed"
    assert "s-1" in world.children
    del world.children["s-1"]
    world.step()
    assert (world.trials[1].state, world.jobs_made) == ("failed", {"s-0": 1, "s-1": 1})


def test_the_time_limit_keeps_what_is_complete() -> None:
    world = World.of(spec(trials=9, time_limit=60))
    world.step()
    world.step()
    world.children["s-0"] = Child("s-0", "Succeeded", progress={"step": 5, "metrics": {"loss": 2.0}})
    world.step()
    world.step()
    world.now += 60
    world.step()
    assert world.children["s-1"].phase == "Cancelling"
    world.children["s-1"] = replace(world.children["s-1"], phase="Cancelled")
    finish(world)
    status = world.resource.status
    assert (status["phase"], status["reason"], status["best"]["value"]) == ("Succeeded", "TimeLimit", 2.0)


@settings(max_examples=100, deadline=None)
@given(
    draws=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1000)), max_size=60),
    parallel=st.integers(1, 4),
    trials=st.integers(1, 9),
    budget=st.floats(0.5, 60),
)
def test_no_trial_begins_once_the_budget_is_spent_and_those_that_go_on_end(
    draws: list[tuple[int, int]], parallel: int, trials: int, budget: float
) -> None:
    world = World.of(spec(parallel=parallel, trials=trials, budget=budget))
    for survive, draw in draws:
        before, empty = dict(world.jobs_made), sum(world.costs.values()) >= budget
        world.step(survive)
        assert not empty or world.jobs_made == before
        if empty and survive >= 6:
            assert {child.phase for child in world.going} <= {"Cancelling"}
        world.work(draw)
    finish(world)
    status = world.resource.status
    assert status["spent"] == pytest.approx(sum(world.costs.values()))
    if len(world.trials) < trials:
        assert (status["ending"], status["reason"]) == ("Budget", "Budget")
        assert "the sweep's budget of" in status["message"]
    assert status["phase"] == ("Succeeded" if status.get("best") else "Failed")


@settings(deadline=None)
@given(
    amount=st.floats(0.1, 1000),
    ended=st.lists(st.floats(0.001, 100), max_size=20),
    going=st.lists(st.floats(0, 100), max_size=8),
    wanted=st.integers(0, 8),
)
def test_trials_that_cost_what_they_did_so_far_end_within_the_budget(
    amount: float, ended: list[float], going: list[float], wanted: int
) -> None:
    purse = Purse(amount, ended, going)
    more = purse.pays_for(wanted)
    assert 0 <= more <= wanted
    if purse.empty:
        assert more == 0
    elif purse.usual is None:
        assert more == wanted
    elif more:
        whole = sum(ended) + sum(max(cost, purse.usual) for cost in going) + more * purse.usual
        assert whole <= amount * (1 + 1e-9)


def test_a_larger_budget_begins_a_sweep_again() -> None:
    world = World.of(spec(trials=4, budget=2))
    finish(world)
    status = world.resource.status
    assert (status["phase"], status["reason"], len(world.trials)) == ("Succeeded", "Budget", 2)
    assert status["message"] == (
        "the sweep's budget of 2.00 is spent: 2 of 4 trials, best loss 1 of trial 0, 2.00 of 2.00 spent"
    )
    world.resource = replace(world.resource, generation=2, spec=spec(trials=4, budget=4.5).dump())
    finish(world)
    status = world.resource.status
    assert (status["phase"], status["reason"], len(world.trials)) == ("Succeeded", "Completed", 4)


def test_what_is_left_and_pays_for_no_trial_is_not_begun_upon() -> None:
    world = World.of(spec(trials=4, budget=2.5))
    finish(world)
    assert world.resource.status["message"].startswith(
        "what is left of the sweep's budget of 2.50 pays for no further trial: 2 of 4 trials, "
    )


def test_a_deleted_sweep_takes_its_jobs_with_it_and_its_study_last() -> None:
    world = World.of(spec(trials=3, parallel=2))
    world.step()
    world.step()
    world.resource = replace(world.resource, deleting=NOW)
    world.step()
    assert all(child.deleting for child in world.children.values())
    assert not world.removed
    world.children.clear()
    world.step()
    assert world.removed
    assert world.trials == {}


def test_the_study_of_a_sweep_goes_though_no_trial_was_written_down() -> None:
    world = World.of(spec(trials=3))
    world.resource = replace(world.resource, deleting=NOW)
    world.step()
    assert (world.removed, world.dropped) == (True, False)


def test_a_trial_whose_name_is_taken_waits_and_says_what_to_do() -> None:
    world = World.of(spec(trials=3, parallel=2))
    world.taken = {"s-1"}
    for _ in range(3):
        world.step()
    status = world.resource.status
    assert set(world.children) == {"s-0"}
    assert status["phase"] == "Running"
    assert status["message"].startswith(
        "trial 1 waits: there is a TrainingJob s-1 that is not of this sweep; delete it (`mw job delete s-1`), "
        "or give the sweep another name; 0 of 3 trials"
    )
    world.taken = set()
    finish(world)
    assert world.jobs_made == {"s-0": 1, "s-1": 1, "s-2": 1}


def test_a_grid_is_every_combination_once() -> None:
    grid = spec(
        parameters={"x": [1, 2, 3], "y": {"type": "float", "low": 0, "high": 0.3, "step": 0.1}}, algorithm="grid"
    )
    points = [tuple(sorted((grid.point(number) or {}).items())) for number in range(grid.most)]
    assert len(set(points)) == grid.most == 12


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"parameters": {"x": {"type": "float", "low": 2, "high": 1}}}, "spec.parameters.x"),
        ({"parameters": {"x": {"type": "float", "low": 0, "high": 1, "log": True}}}, "spec.parameters.x"),
        ({"parameters": {"x": {"type": "int", "low": 1, "high": 9, "log": True, "step": 2}}}, "spec.parameters.x"),
        ({"parameters": {"x": [1, 1]}}, "spec.parameters.x"),
        ({"parameters": {"x": {"type": "float", "low": 0, "high": 1}}, "algorithm": "grid"}, "spec"),
        ({"algorithm": "annealing"}, "spec.algorithm"),
        ({"algorithm": {"name": "asha", "min_resource": 9, "max_resource": 3}}, "spec.algorithm"),
        ({"objective": {"metric": "loss", "goal": "lowest"}}, "spec.objective.goal"),
        ({"job": {"command": "true", "replicas": 0}}, "spec.job.replicas"),
    ],
)
def test_what_is_wrong_is_told_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        spec(**fields)
    assert refused.value.fields[0].path.startswith(path)
