"""When a job is stalled, who lags, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pure.test_training_decide import job, key, loop
from tests.simulated import START, Loop

from modelworks.agent.activity import Activity, Signs
from modelworks.kernel.decision import CaptureStacks, Decision, Emit, Reserve, StopRun
from modelworks.kernel.events import Level
from modelworks.kernel.run import Progress, RunObservation, RunPhase, RunReason
from modelworks.products.training import watchdog
from modelworks.products.training.policy_spec import Watchdog
from modelworks.products.training.spec import TrainingJobSpec

REPORT = Watchdog()


def running(replicas: int, **spec: Any) -> Loop:
    it = loop(job(replicas=replicas, **spec))
    it.settle()
    for rank in range(replicas):
        it.world.start(key(1, rank))
    it.settle()
    assert it.status["phase"] == "Running"
    return it


def fall_silent(it: Loop, rank: int, at: float, step: int | None = None, attempt: int = 1) -> None:
    told = None if step is None else Progress(at=at, step=step)
    it.world._change(key(attempt, rank), idle=True, active_at=at, progress=told)


def captured(decision: Decision) -> list[int]:
    return [run.rank for action in decision.actions if isinstance(action, CaptureStacks) for run in action.runs]


def test_a_job_is_stalled_when_every_rank_is_and_each_ranks_stacks_are_taken_once() -> None:
    it = running(3)
    fall_silent(it, 0, START + 10)
    fall_silent(it, 1, START + 11)
    assert it.step().status["phase"] == "Running"
    fall_silent(it, 2, START + 12)
    decision = it.step()
    assert decision.status["phase"] == "Stalled"
    assert captured(decision) == [0, 1, 2]
    (told,) = [action for action in decision.actions if isinstance(action, Emit)]
    assert (told.reason, told.level) == ("Stalled", Level.WARNING)
    assert "since 2023-11-14 22:13:32 UTC (all 3 replicas)" in told.message
    assert it.world.stops == []
    again = it.step()
    assert (captured(again), again.actions) == ([], ())
    assert again.status == decision.status


def test_what_does_something_again_is_running_and_stacks_are_taken_when_it_falls_silent_again() -> None:
    it = running(2)
    for rank in range(2):
        fall_silent(it, rank, START)
    it.settle()
    it.world._change(key(1, 1), idle=False)
    assert it.settle().status["phase"] == "Running"
    fall_silent(it, 1, START + 500)
    assert captured(it.step()) == [0, 1]


def test_the_rank_with_the_lowest_step_lags() -> None:
    it = running(3)
    for rank, step in enumerate((8, 7, 8)):
        fall_silent(it, rank, START, step)
    assert "rank 1 lags: it is at step 7, the furthest at 8" in it.step().status["message"]


def test_without_steps_the_one_that_worked_last_lags() -> None:
    it = running(3)
    for rank, at in enumerate((START, START + 40, START + 1)):
        fall_silent(it, rank, at)
    assert "rank 1 lags: it worked for 39 s when all others had fallen silent" in it.step().status["message"]


def test_nobody_is_blamed_when_all_fell_silent_together() -> None:
    it = running(2)
    for rank in range(2):
        fall_silent(it, rank, START + rank, step=7)
    assert "no rank lags" in it.step().status["message"]


def test_a_replica_that_has_finished_is_not_waited_for() -> None:
    it = running(2)
    fall_silent(it, 1, START)
    it.world.end(key(1, 0))
    assert it.step().status["phase"] == "Stalled"


def test_restart_ends_the_attempt_within_the_jobs_retries() -> None:
    it = running(2, watchdog={"policy": "restart"}, retries=1, grace_period="7s")
    for attempt in (1, 2):
        for rank in range(2):
            fall_silent(it, rank, it.world.now, attempt=attempt)
        decision = it.decide(it.resource, it.world)
        stops = [action for action in decision.actions if isinstance(action, StopRun)]
        assert [(stop.reason, stop.grace) for stop in stops] == [("Stalled", 7.0)] * 2
        assert captured(decision) == [0, 1]
        ending = "to be repeated" if attempt == 1 else "and not repeated (retries: 1)"
        assert decision.status["message"].endswith(f"; it is stopped, {ending}")
        it.resource = replace(it.resource, status=dict(decision.status))
        for rank in range(2):
            it.world.end(key(attempt, rank), RunReason.STALLED, 143, "stopped")
            assert it.step().status["message"].count("no output, no step, no CPU or GPU at work since") == 1
        it.settle()
        if attempt == 1:
            assert it.status["phase"] == "Retrying"
            it.pass_time(60)
            for rank in range(2):
                it.world.start(key(2, rank))
            it.settle()
    assert (it.status["phase"], it.status["reason"]) == ("Failed", "Stalled")
    assert it.status["message"].startswith("failed after 2 attempts: no output, no step, no CPU or GPU at work since")
    assert "(all 2 replicas)" in it.status["message"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "since retries is 0"),
        ({"retries": 2, "restart_policy": "Never"}, "since restart_policy is Never"),
        ({"retries": 1}, ""),
        ({"watchdog": {"policy": "stop"}}, ""),
    ],
)
def test_who_wants_a_restart_and_allows_none_is_told(given: dict[str, Any], said: str) -> None:
    spec = TrainingJobSpec.parse({"command": "true", "watchdog": {"policy": "restart"}} | given, at="spec")
    notes = watchdog.advice(spec)
    assert [said in note for note in notes] == [True] * bool(said)


def test_stop_ends_the_job_whatever_its_retries_are() -> None:
    it = running(1, watchdog={"policy": "stop", "after": "5m"}, retries=5)
    fall_silent(it, 0, START)
    assert it.step().status["message"].endswith("it is stopped")
    it.world._change(key(), phase=RunPhase.EXITED, reason=RunReason.STALLED, exited_at=it.world.now, exit_code=143)
    it.settle()
    assert (it.status["phase"], it.status["reason"]) == ("Failed", "Stalled")
    assert "since 2023-11-14 22:13:20 UTC (the replica); the log of each replica has its stacks" in it.status["message"]


@pytest.mark.parametrize("policy", ["off", False], ids=["text", "as YAML reads it"])
def test_off_means_off(policy: object) -> None:
    it = running(1, watchdog={"policy": policy})
    assert it.world.specs[key()].quiet is None
    fall_silent(it, 0, START)
    assert it.settle().status["phase"] == "Running"


@pytest.mark.parametrize(("policy", "wanted"), [({}, (60.0, 5.0)), ({"after": "3s"}, (3.0, 0.0))])
def test_agents_are_told_how_long_silence_may_last(policy: dict[str, Any], wanted: tuple[float, float]) -> None:
    it = running(1, watchdog=policy)
    run = it.world.specs[key()]
    assert (run.quiet, run.quiet_steps) == wanted


def test_what_is_looked_at_before_is_the_specs() -> None:
    it = loop(job(replicas=2, preflight={"network": False, "disk": "5Gi", "timeout": "7s"}))
    it.settle()
    run = it.world.specs[key(1, 1)]
    assert run.disk == 5 << 30
    assert run.rendezvous is not None
    assert (run.rendezvous.network, run.rendezvous.timeout, run.rendezvous.rank) == (False, 7.0, 1)
    assert [peer.port - run.rendezvous.peers[0].port for peer in run.rendezvous.peers] == [0, 1]


def test_a_pair_that_cannot_reach_each_other_is_the_jobs_message_and_costs_no_retry() -> None:
    it = loop(job(replicas=3))
    it.settle()
    said = "rank 0 (node a, 10.0.0.1 on eth0) cannot reach rank 1 (node b) at 10.0.0.2:29513: no answer in 10s"
    it.world.end(key(1, 0), RunReason.PREFLIGHT_FAILED, None, said)
    assert said in it.step().status["message"]
    it.settle()
    assert it.status["phase"] == "Retrying"
    assert said in it.status["message"]
    assert it.status["attempts"][0]["reason"] == "PreflightFailed"


def test_what_is_found_missing_twice_in_a_row_ends_the_job_with_the_finding() -> None:
    it = loop(job(replicas=2, retries=5))
    said = "rank 0 (node a, 10.0.0.1 on eth0) cannot reach rank 1 (node b) at 10.0.0.2:29513: no answer in 10s"
    for attempt in (1, 2):
        it.settle()
        it.world.end(key(attempt, 0), RunReason.PREFLIGHT_FAILED, None, said)
        it.settle()
        it.pass_time(5)
    assert (it.status["phase"], it.status["reason"], len(it.status["attempts"])) == ("Failed", "PreflightFailed", 2)
    assert it.status["message"] == f"failed after 2 attempts: replica 0: {said}"


def test_the_attempt_after_a_finding_prefers_other_nodes() -> None:
    it = loop(job())
    it.settle()
    it.world.end(key(), RunReason.PREFLIGHT_FAILED, None, "node a has 3Gi free where runs write")
    node = it.world.runs[key()].node
    it.settle()
    assert it.status["attempts"][0]["node"] == node != ""
    it.world.now += 5
    reserved = [action for action in it.step().actions if isinstance(action, Reserve)]
    assert [claim.avoid for action in reserved for claim in action.claims] == [node]


def test_a_node_is_avoided_though_the_room_of_the_next_attempt_is_wanted_back_before_it_began() -> None:
    it = loop(job())
    it.settle()
    it.world.end(key(), RunReason.PREFLIGHT_FAILED, None, "node a has 3Gi free where runs write")
    node = it.world.runs[key()].node
    it.settle()
    it.world.now += 5
    it.step()
    it.world.evict(key(2), 30.0)
    decision = it.step()
    assert it.status["phase"] == "Queued"
    assert "queued again" in it.status["message"]
    reserved = [action for action in decision.actions if isinstance(action, Reserve)]
    assert [claim.avoid for action in reserved for claim in action.claims] == [node]


def test_a_finding_after_work_is_the_first_one_again() -> None:
    it = loop(job())
    for attempt, reason in enumerate((RunReason.PREFLIGHT_FAILED, RunReason.LOST, RunReason.PREFLIGHT_FAILED), 1):
        it.settle()
        it.world.end(key(attempt), reason, None)
        it.settle()
        assert it.status["phase"] == "Retrying"
        it.pass_time(10)


def test_who_looked_in_vain_for_a_replica_that_nobody_had_begun_has_found_nothing() -> None:
    """As when the controller is killed between the two."""
    it = loop(job(replicas=2))
    for attempt in range(1, 4):
        it.settle()
        del it.world.runs[key(attempt, 1)]
        it.resource = replace(it.resource, status=it.status | {"replicas": []})
        it.world.end(key(attempt, 0), RunReason.PREFLIGHT_FAILED, None, "rank 0 cannot reach rank 1")
        it.settle()
        assert (it.status["phase"], it.status["reason"]) == ("Retrying", "PreflightFailed")
        it.pass_time(10)


@pytest.mark.parametrize("gone", [RunReason.LEASE_EXPIRED, RunReason.LOST, None])
def test_who_looked_in_vain_for_a_peer_whose_node_was_cut_off_is_not_the_cause(gone: RunReason | None) -> None:
    it = loop(job(replicas=2))
    it.settle()
    it.world.end(key(1, 0), RunReason.PREFLIGHT_FAILED, None, "rank 0 cannot reach rank 1")
    if gone is None:
        del it.world.runs[key(1, 1)]
    else:
        it.world.now += 5
        it.world.end(key(1, 1), gone, None)
    it.settle()
    assert it.status["attempts"][0]["reason"] == str(gone or RunReason.LOST)


def test_data_that_is_not_there_ends_the_job_at_once() -> None:
    it = loop(job(retries=5))
    it.settle()
    it.world.end(key(), RunReason.INPUT_MISSING, None, "input data: there is no object at s3://digits/train/")
    assert (it.settle().status["phase"], len(it.status["attempts"])) == ("Failed", 1)


PHASES = st.sampled_from([RunPhase.PREPARING, RunPhase.RUNNING, RunPhase.FINALIZING, RunPhase.EXITED, RunPhase.LOST])


@given(st.dictionaries(st.integers(0, 9), st.tuples(PHASES, st.booleans(), st.floats(0, 1e9))))
def test_never_while_any_replica_works_is_on_its_way_or_is_done(
    seen: dict[int, tuple[RunPhase, bool, float]],
) -> None:
    runs = {
        rank: RunObservation(key=key(1, rank), phase=phase, idle=idle, active_at=at, created_at=0.0)
        for rank, (phase, idle, at) in seen.items()
    }
    live = [run for run in runs.values() if not run.phase.ended]
    silent = bool(live) and all(run.phase is RunPhase.RUNNING and run.idle for run in live)
    stall = watchdog.stalled(REPORT, runs)
    assert (stall is not None) == silent
    if stall is not None:
        assert stall.since == max(run.active_at or 0.0 for run in live)
        assert stall.rank is None or not runs[stall.rank].phase.ended


def simulate(it: Loop, minutes: int, sample: Callable[[int, float], dict[str, float]]) -> set[str]:
    """Agents look each two seconds and tell of changes alone; the phases that the job went through."""
    watches = {rank: Activity(*watchdog.quiet(REPORT)) for rank in range(2)}
    phases = set()
    for _ in range(minutes * 30):
        it.world.now += 2.0
        changed = False
        for rank, watch in watches.items():
            if watch.look(Signs(it.world.now, sample=sample(rank, it.world.now - START))):
                changed = True
                it.world._change(key(1, rank), idle=watch.idle, active_at=watch.active_at)
        if changed:
            it.settle()
        phases.add(it.status["phase"])
    return phases


def test_a_job_that_computes_in_silence_for_half_an_hour_is_never_called_stalled() -> None:
    """One rank evaluates, the other waits for it: nothing is put out, and no step is told of."""
    assert simulate(running(2), 30, lambda rank, _: {"cpu": 0.06 if rank == 0 else 0.0}) == {"Running"}


def test_a_job_whose_ranks_all_wait_is_called_stalled_after_a_minute() -> None:
    it = running(2)
    assert simulate(it, 1, lambda rank, at: {"cpu": 1.0 if at < 20 else 0.0}) == {"Running"}
    assert "Stalled" in simulate(it, 3, lambda rank, at: {"cpu": 0.0})
    assert it.status["phase"] == "Stalled"
