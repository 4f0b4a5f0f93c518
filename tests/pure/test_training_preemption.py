"""Decisions about jobs whose room is wanted back, whose ranks fail, and that work with more replicas or fewer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.job_loop import job, key, loop
from tests.simulated import START, Loop, World

from modelworks.kernel.run import RunObservation, RunPhase, RunReason
from modelworks.products.training.attempts import INFRASTRUCTURE_RETRIES, SOON, failed_runs
from modelworks.products.training.record import Record


def running(world: World | None = None, cancel: list[float] | None = None, **spec: Any) -> Loop:
    """A job whose replicas all run, and that takes its time to end."""
    it = loop(job(**spec), world, cancel)
    it.settle()
    it.world.slow_to_end = True
    start_all(it)
    return it


def start_all(it: Loop) -> None:
    for name in it.world.live:
        if it.world.runs[name].phase is RunPhase.PREPARING:
            it.world.start(name)
    it.pass_time(1)


def end_stopped(it: Loop, code: int = 0) -> None:
    """What was told to end does."""
    for name in list(it.world.live):
        it.world.end(name, it.world.reasons[name], code)
    it.settle()


@pytest.mark.parametrize("notice", [180.0, 30.0, 0.0])
def test_a_preempted_job_is_queued_again_at_once(notice: float) -> None:
    it = running(replicas=2)
    it.world.evict(key(1, 1), notice, "preempted for TrainingJob big of priority 10")
    it.settle()
    assert (it.status["phase"], it.world.graces) == ("Preempting", {key(1, 0): notice, key(1, 1): notice})
    assert it.status["message"].startswith("preempted for TrainingJob big of priority 10")
    end_stopped(it)
    assert it.world.live == [key(2, 0), key(2, 1)]
    (first,) = it.status["attempts"]
    assert (first["reason"], first["message"]) == ("Preempted", "preempted for TrainingJob big of priority 10")
    assert "infrastructure" not in first
    assert sorted(it.world.released) == [key(1, 0), key(1, 1)]


def test_a_job_asks_for_no_more_than_its_own_notice() -> None:
    it = running(notice="20s")
    it.world.evict(key(), 180.0)
    it.settle()
    assert it.world.graces == {key(): 20.0}


def test_a_later_notice_may_only_be_shorter() -> None:
    it = running()
    it.world.evict(key(), 100.0)
    it.settle()
    it.world.evict(key(), 10.0)
    it.settle()
    assert it.world.graces == {key(): 10.0}
    it.world.evict(key(), 500.0)
    it.settle()
    assert it.world.graces == {key(): 10.0}
    assert Record.of(it.status).status(1) == it.status


def test_preemptions_have_a_budget_of_their_own() -> None:
    it = running(retries=1, preemptions=2)
    for attempt in (1, 2):
        it.world.evict(key(attempt), 30.0)
        it.settle()
        end_stopped(it)
        start_all(it)
    it.world.end(key(3), RunReason.FAILED, 1, "exit code 1")
    it.settle()
    assert it.status["phase"] == "Retrying"
    it.pass_time(1)
    start_all(it)
    it.world.evict(key(4), 30.0)
    it.settle()
    end_stopped(it)
    assert (it.status["phase"], it.status["reason"]) == ("Failed", "Preempted")
    assert it.status["message"].endswith("it may be preempted 2 times (preemptions)")


def test_room_that_is_wanted_back_before_anything_started_is_given_back() -> None:
    it = loop(job(replicas=2), World(room=0))
    it.settle()
    it.world.room = 2
    it.world.admit()
    it.world.evict(key(1, 0), 30.0)
    it.step()
    assert (it.world.starts, sorted(it.world.released)) == ([], [key(1, 0), key(1, 1)])
    it.settle()
    assert it.world.starts == [key(1, 0), key(1, 1)]
    assert "attempts" not in it.status or it.status["attempts"] == []


def test_what_breaks_because_of_the_notice_is_no_failure() -> None:
    it = running(replicas=2)
    it.world.evict(key(1, 0), 30.0)
    it.settle()
    it.world.now += 1
    it.world.end(key(1, 1), RunReason.FAILED, 1, "exit code 1: RuntimeError: Connection closed by peer")
    end_stopped(it)
    assert it.status["attempts"][0]["reason"] == "Preempted"


def test_what_failed_before_the_notice_is() -> None:
    it = running(replicas=2)
    it.world.end(key(1, 1), RunReason.FAILED, 1, "exit code 1")
    it.world.now += 1
    it.world.evict(key(1, 0), 30.0)
    it.settle()
    end_stopped(it)
    assert (it.status["phase"], it.status["attempts"][0]["reason"]) == ("Failed", "Failed")


def test_a_job_that_completes_during_its_notice_is_complete() -> None:
    it = running()
    it.world.evict(key(), 30.0)
    it.settle()
    it.world.end(key())
    it.settle()
    assert it.status["phase"] == "Succeeded"


def test_cancel_during_a_notice_cancels() -> None:
    asked: list[float] = []
    it = running(cancel=asked)
    it.world.evict(key(), 30.0)
    it.settle()
    asked.append(it.world.now)
    it.settle()
    end_stopped(it)
    assert (it.status["phase"], it.world.starts) == ("Cancelled", [key()])


def test_a_rank_that_has_failed_ends_its_peers_while_its_outputs_are_on_their_way() -> None:
    it = running(replicas=2, grace_period="60s")
    it.world.finalize(key(1, 1))
    it.world.runs[key(1, 1)] = it.world.runs[key(1, 1)].model_copy(update={"exit_code": 137, "signal": 9})
    it.settle()
    assert (it.world.graces, it.world.reasons) == ({key(1, 0): 5.0}, {key(1, 0): RunReason.PEER_FAILED})
    assert it.status["message"] == "replica 1: killed by signal 9; stopping the others"
    it.world.end(key(1, 0), RunReason.PEER_FAILED, 143)
    it.world.end(key(1, 1), RunReason.FAILED, 137, "killed by SIGKILL")
    it.settle()
    assert (it.status["phase"], it.status["message"]) == ("Failed", "replica 1: killed by SIGKILL")
    assert it.status["attempts"][0]["exit_code"] == 137


def test_of_ranks_that_failed_together_the_cause_does_not_complain_of_its_peers() -> None:
    def run(rank: int, at: float, message: str, reason: RunReason = RunReason.FAILED) -> RunObservation:
        fields = {"created_at": START, "exited_at": at, "exit_code": 1, "message": message}
        return RunObservation(key=key(1, rank), phase=RunPhase.EXITED, reason=reason, **fields)

    runs = {
        0: run(0, START + 0.1, "exit code 1: RuntimeError: [..] Connection closed by peer [127.0.0.1]:2345"),
        1: run(1, START + 0.2, "exit code 1: ValueError: bad batch"),
        2: run(2, START, "stopped", RunReason.PEER_FAILED),
        3: run(3, START + 9.0, "exit code 1: ValueError: another"),
    }
    assert [rank for rank, _ in failed_runs(runs)] == [1, 0, 3, 2]


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        ("OnFailure", 1, "Retrying"),
        ("Always", 1, "Retrying"),
        ("Never", 1, "Failed"),
        ("ExitCode", 1, "Failed"),
        ("ExitCode", 137, "Retrying"),
        ("ExitCode", 143, "Retrying"),
    ],
)
def test_restart_policies(policy: str, code: int, phase: str) -> None:
    it = running(retries=1, restart_policy=policy)
    it.world.end(key(), RunReason.FAILED, code)
    assert it.settle().status["phase"] == phase


@pytest.mark.parametrize(
    ("reason", "phase"),
    [
        (RunReason.BUDGET, "Failed"),
        (RunReason.STALLED, "Failed"),
        (RunReason.LEASE_EXPIRED, "Retrying"),
        (RunReason.PREFLIGHT_FAILED, "Retrying"),
    ],
)
def test_other_ends(reason: RunReason, phase: str) -> None:
    it = running(retries=1)
    it.world.end(key(), reason, 143)
    assert it.settle().status["phase"] == phase


def test_a_stalled_job_is_restarted_within_its_retries_if_it_says_so() -> None:
    it = running(retries=1, watchdog={"policy": "restart"})
    it.world.end(key(), RunReason.STALLED, 143)
    it.settle()
    it.pass_time(1)
    it.world.end(key(2), RunReason.STALLED, 143)
    assert (it.settle().status["phase"], it.status["reason"]) == ("Failed", "Stalled")


def test_an_attempt_that_ran_for_long_begins_the_count_anew() -> None:
    it = running()
    for attempt in range(1, 3 * INFRASTRUCTURE_RETRIES):
        it.pass_time(SOON)
        it.world.end(key(attempt), RunReason.LOST)
        it.settle()
        it.pass_time(60)
        start_all(it)
    assert it.status["phase"] == "Running"


# -- elastic jobs -----------------------------------------------------------------------------------------------


def elastic(room: int, low: int = 1, high: int = 4, **spec: Any) -> Loop:
    return running(World(room=room), replicas={"min": low, "max": high}, **spec)


def world_sizes(it: Loop, attempt: int) -> set[str]:
    return {spec.env["WORLD_SIZE"] for name, spec in it.world.specs.items() if f"/a{attempt}/" in name}


def test_an_elastic_job_begins_with_what_there_is() -> None:
    it = elastic(room=3, low=2)
    assert it.world.live == [key(1, rank) for rank in range(3)]
    assert (world_sizes(it, 1), it.status["size"]) == ({"3"}, 3)
    assert sorted(it.world.claims) == it.world.live


def test_it_waits_for_its_least() -> None:
    it = elastic(room=1, low=2)
    assert (it.status["phase"], it.world.starts) == ("Queued", [])
    it.world.room = 2
    it.pass_time(1)
    assert world_sizes(it, 1) == {"2"}


def test_it_goes_on_with_those_that_are_left_and_waits_for_no_gang() -> None:
    it = elastic(room=4)
    it.world.room = 3  # the room of the lost node is gone, and nobody else's is free
    it.world.end(key(1, 1), RunReason.LOST)
    it.settle()
    assert set(it.world.reasons.values()) == {RunReason.PEER_FAILED}
    end_stopped(it)
    assert it.world.live == [key(2, rank) for rank in range(3)]
    assert (world_sizes(it, 2), it.status["attempts"][0]["replicas"]) == ({"3"}, 4)
    assert set(it.world.released) == {key(1, 1)}  # the rest was never free for others


def test_an_optional_replica_that_is_wanted_back_shrinks_the_job() -> None:
    it = elastic(room=3)
    it.world.evict(key(1, 2), 60.0)
    it.settle()
    assert set(it.world.graces.values()) == {60.0}
    it.world.room = 2
    end_stopped(it)
    assert (it.world.live, world_sizes(it, 2)) == ([key(2, 0), key(2, 1)], {"2"})


def test_fewer_than_the_least_are_queued_again() -> None:
    it = elastic(room=2, low=2)
    it.world.evict(key(1, 0), 60.0)
    it.world.room = 1
    it.settle()
    end_stopped(it)
    assert (it.status["phase"], it.world.live, it.status["attempt"]) == ("Queued", [], 2)
    assert all(claim.node is None for claim in it.world.claims.values())


def test_it_grows_once_it_has_worked_for_a_while() -> None:
    it = elastic(room=2)
    it.world.room = 3
    it.pass_time(200)
    assert it.world.stops == []
    it.pass_time(100)
    assert set(it.world.reasons.values()) == {RunReason.RESIZED}
    assert it.status["message"].startswith("there is room for 3 replicas instead of 2")
    end_stopped(it)
    assert (it.world.live, world_sizes(it, 2)) == ([key(2, rank) for rank in range(3)], {"3"})
    assert it.status["attempts"][0]["reason"] == "Resized"


def test_who_asks_for_room_in_vain_goes_on() -> None:
    it = elastic(room=2)
    it.pass_time(1000)
    assert (it.status["phase"], it.world.stops) == ("Running", [])
    for rank in (0, 1):
        it.world.end(key(1, rank))
    it.settle()
    assert (it.status["phase"], it.world.claims) == ("Succeeded", {})


_EVENTS = st.sampled_from(
    ["start", "complete", "fail", "lose", "evict", "end", "end", "start", "wait", "room", "crash", "pass", "forget"]
)


@settings(deadline=None, max_examples=150)
@given(
    low=st.integers(1, 3),
    more=st.integers(0, 2),
    plain=st.booleans(),
    preemptions=st.integers(0, 3),
    events=st.lists(st.tuples(_EVENTS, st.integers(0, 7)), max_size=60),
)
def test_one_attempt_at_a_time_of_one_size_whatever_happens(
    low: int, more: int, plain: bool, preemptions: int, events: list[tuple[str, int]]
) -> None:
    replicas: Any = low if plain else {"min": low, "max": low + more, "grow_after": 60}
    it = loop(job(replicas=replicas, retries=1, preemptions=preemptions), World(room=4, slow_to_end=True))
    for event, number in events:
        live, placed = sorted(it.world.live), sorted(k for k, claim in it.world.claims.items() if claim.node)
        target = live[number % len(live)] if live else None
        match event:
            case "start":
                for name in live:
                    it.world.start(name)
            case "complete" if target:
                it.world.end(target)
            case "fail" if target:
                it.world.end(target, RunReason.FAILED, 1)
            case "lose" if target:
                it.world.end(target, RunReason.LOST)
            case "end":
                for name in live:
                    if name in it.world.reasons:
                        it.world.end(name, it.world.reasons[name], 0)
            case "forget" if target and target in [line["key"] for line in it.status.get("replicas", ())]:
                del it.world.runs[target]
            case "evict" if placed:
                it.world.evict(placed[number % len(placed)], 30.0 * number)
            case "room":
                it.world.room = number
            case "wait":
                it.world.now += number * 40
            case "crash":
                it.step(crash=True)
            case _:
                it.step()
        assert len({name.split("/")[1] for name in it.world.live}) <= 1
        assert len(it.world.starts) == len(set(it.world.starts))
        for attempt in {name.split("/")[1] for name in it.world.starts}:
            sizes = {spec.env["WORLD_SIZE"] for name, spec in it.world.specs.items() if f"/{attempt}/" in name}
            assert len(sizes) == 1, "ranks of one attempt that do not agree how many they are"
            (size,) = sizes
            assert low <= int(size) <= low + (0 if plain else more)
    it.world.slow_to_end = False
    for name in list(it.world.live):
        if name in it.world.reasons:
            it.world.end(name, it.world.reasons[name], 0)
    it.settle()
    attempts = it.status.get("attempts", [])
    assert sum(item["reason"] == "Preempted" for item in attempts) <= preemptions + 1
    assert sum(item["reason"] == "Failed" for item in attempts) <= 2
    if it.status["phase"] in ("Succeeded", "Failed", "Cancelled"):
        assert (it.world.live, it.world.claims) == ([], {})
    assert Record.of(it.status).status(1) == it.status
