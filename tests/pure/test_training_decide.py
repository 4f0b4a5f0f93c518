"""Decisions about training jobs, against a model of the world."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.job_loop import UID, job, key, loop
from tests.simulated import START, World

from modelworks.kernel.decision import EnsureBucket
from modelworks.kernel.run import RunReason
from modelworks.products.training.attempts import INFRASTRUCTURE_RETRIES
from modelworks.products.training.record import Record


def test_a_job_with_credentials_has_a_key_while_it_lives() -> None:
    it = loop(job(credentials=True, retries=1))
    it.settle()
    assert it.world.api_key == "a1"
    it.world.start(key())
    it.world.end(key(), RunReason.FAILED, 1)
    it.settle()
    it.pass_time(60)
    assert (it.status["attempt"], it.world.api_key) == (2, "a2")
    it.world.start(key(2))
    it.world.end(key(2))
    it.settle()
    assert (it.status["phase"], it.world.api_key) == ("Succeeded", None)


def test_a_job_without_credentials_has_none() -> None:
    it = loop(job())
    it.settle()
    assert it.world.starts == [key()]
    assert it.world.api_key is None


def test_a_cancelled_job_keeps_no_key() -> None:
    cancel: list[float] = []
    it = loop(job(credentials=True), cancel=cancel)
    it.settle()
    cancel.append(START)
    it.settle()
    assert (it.status["phase"], it.world.api_key) == ("Cancelled", None)


def test_a_job_that_succeeds() -> None:
    it = loop(job())
    assert it.step().status["phase"] == "Queued"
    decision = it.step()
    assert decision.status["phase"] == "Preparing"
    assert EnsureBucket("mw-default") in decision.actions
    it.settle()
    assert it.status["message"] == "building environment"
    it.world.start(key())
    assert it.pass_time(1).status["phase"] == "Running"
    it.world.finalize(key())
    assert it.pass_time(5).status["phase"] == "Finalizing"
    it.world.end(key())
    it.settle()
    assert it.status["phase"] == "Succeeded"
    assert it.status["attempts"][0]["exit_code"] == 0
    assert it.world.released == {key(): it.world.runs[key()].exited_at}
    assert it.settle().wake_in is None


def test_the_run_of_a_rank() -> None:
    it = loop(job(replicas=2, env={"WHO": "rank $(RANK)"}, command="run --n $(WORLD_SIZE) $(MW_OUTPUT_DIR) $(X)"))
    it.settle()
    first, second = (it.world.specs[key(1, rank)] for rank in (0, 1))
    assert first.command == ("/bin/sh", "-c", "run --n 2 /mnt/output $(X)")
    assert (first.env["RANK"], second.env["RANK"]) == ("0", "1")
    assert second.env["WHO"] == "rank 1"
    assert first.env["MASTER_PORT"] == second.env["MASTER_PORT"]
    assert first.inputs[0].paths == ("/mnt/data", "/ml/input/data/data")
    assert first.outputs[0].uri == f"s3://mw-default/jobs/digits/{UID}/a1/"
    assert len({output.uri for run in (first, second) for output in run.outputs}) == 6
    events = [next(output for output in run.outputs if output.name == "tensorboard") for run in (first, second)]
    assert [output.uri for output in events] == [
        f"s3://mw-default/jobs/digits/{UID}/tensorboard/{own}/" for own in ("a1", "a1.rank1")
    ]
    assert (events[0].paths, first.env["PAI_OUTPUT_TENSORBOARD"]) == (("/ml/output/tensorboard",), events[0].paths[0])
    assert first.log_uri == f"s3://mw-default/logs/{key()}/"


def test_what_is_mounted_by_name_hides_no_folder_for_event_files() -> None:
    it = loop(job(mounts={"/ml/output/tensorboard": "s3://boards/earlier/"}))
    it.settle()
    assert [output.name for output in it.world.specs[key()].outputs] == ["model", "checkpoints"]


def test_a_job_waits_for_room_and_says_for_what() -> None:
    it = loop(job(), World(room=0))
    assert it.settle().status["phase"] == "Queued"
    assert it.status["message"].startswith("waits for capacity")
    it.world.room = 1
    assert it.pass_time(1).status["phase"] == "Preparing"


def test_a_gang_is_placed_whole() -> None:
    it = loop(job(replicas=3), World(room=2))
    it.settle()
    assert it.world.starts == []
    it.world.room = 3
    it.pass_time(1)
    assert len(it.world.starts) == 3


def test_one_failed_rank_stops_the_others_and_is_named() -> None:
    it = loop(job(replicas=2))
    it.settle()
    for rank in (0, 1):
        it.world.start(key(1, rank))
    it.pass_time(1)
    it.world.end(key(1, 1), RunReason.FAILED, 3, "exited with code 3")
    it.pass_time(1)
    assert it.world.stops == [key(1, 0)]
    assert it.status["phase"] == "Failed"
    assert it.status["message"] == "replica 1: exited with code 3"
    assert it.status["attempts"][0]["exit_code"] == 3


def test_retries_with_back_off() -> None:
    it = loop(job(retries=2))
    for attempt, delay in ((1, 1.0), (2, 2.0)):
        it.settle()
        it.world.end(key(attempt), RunReason.FAILED, 1, "exit code 1")
        decision = it.settle()
        assert it.status["phase"] == "Retrying"
        assert decision.wake_in == pytest.approx(delay)
        it.pass_time(delay / 2)
        assert it.world.live == []
        it.pass_time(delay / 2)
        assert it.world.live == [key(attempt + 1)]
    it.world.end(key(3), RunReason.FAILED, 1, "exit code 1")
    it.settle()
    assert it.status["phase"] == "Failed"
    assert it.status["message"] == "failed after 3 attempts: exit code 1"
    assert [item["n"] for item in it.status["attempts"]] == [1, 2, 3]


def test_an_environment_that_cannot_be_built_is_not_tried_again() -> None:
    it = loop(job(retries=3))
    it.settle()
    it.world.end(key(1), RunReason.ENVIRONMENT_FAILED, None, "no such package")
    it.settle()
    assert it.status["phase"] == "Failed"
    assert it.status["message"] == "no such package"


def test_an_attempt_goes_on_from_the_checkpoints_of_those_before_it() -> None:
    it = loop(job(retries=2, replicas=2))
    for attempt in (1, 2):
        it.settle()
        it.world.end(key(attempt), RunReason.FAILED, 1)
        it.world.end(key(attempt, 1), RunReason.STOPPED, 143)
        it.settle()
        it.pass_time(10)
    root = f"s3://mw-default/jobs/digits/{UID}/checkpoints"
    restored = {o.name: o.restore for o in it.world.specs[key(3, 1)].outputs}
    assert restored == {"model": (), "checkpoints": (f"{root}/a2.rank1/", f"{root}/a1.rank1/"), "tensorboard": ()}
    lent = {o.name: o.lent for o in it.world.specs[key(3, 1)].outputs}
    assert lent == {"model": (), "checkpoints": (f"{root}/a2/", f"{root}/a1/"), "tensorboard": ()}
    assert {o.lent for o in it.world.specs[key(3, 0)].outputs} == {()}
    assert {o.restore for o in it.world.specs[key(1)].outputs} == {()}


@pytest.mark.parametrize("reason", [RunReason.LOST, RunReason.STOPPED, RunReason.STORE_UNREACHABLE])
def test_the_platforms_own_failures_cost_no_retry_and_are_limited(reason: RunReason) -> None:
    it = loop(job())
    for attempt in range(1, INFRASTRUCTURE_RETRIES + 1):
        it.settle()
        it.world.end(key(attempt), reason, 143)
        it.settle()
        assert (it.status["phase"], it.status["reason"]) == ("Retrying", str(reason))
        it.pass_time(60)
        it.settle()
        it.world.start(key(attempt + 1))
        it.settle()
        assert (it.status["phase"], it.status.get("reason")) == ("Running", None)
    it.world.end(key(INFRASTRUCTURE_RETRIES + 1), reason, 143)
    assert it.settle().status["phase"] == "Failed"


def test_a_run_the_node_forgot_is_lost_and_never_started_again_under_its_key() -> None:
    it = loop(job())
    it.settle()
    it.world.start(key())
    it.settle()
    del it.world.runs[key()]
    it.settle()
    assert it.status["phase"] == "Retrying"
    it.pass_time(5)
    assert it.world.starts == [key(1), key(2)]


def test_a_lost_rank_is_named_and_not_those_that_were_stopped_with_it() -> None:
    it = loop(job(replicas=2))
    it.settle()
    for rank in (0, 1):
        it.world.start(key(1, rank))
    it.settle()
    del it.world.runs[key(1, 0)]
    it.settle()
    assert it.world.stops == [key(1, 1)]
    assert it.status["attempts"][0]["reason"] == "Lost"
    assert it.status["attempts"][0]["message"].startswith("replica 0: the node no longer knows of it")


def test_a_rank_that_completed_stays_complete_when_its_node_is_gone() -> None:
    it = loop(job(replicas=2))
    it.settle()
    for rank in (0, 1):
        it.world.start(key(1, rank))
    it.world.end(key(1, 1))
    committed = {"uri": it.world.specs[key(1, 1)].outputs[0].uri, "digest": "d", "size": 1}
    it.world.runs[key(1, 1)] = it.world.runs[key(1, 1)].model_copy(update={"outputs": {"model": committed}})
    it.pass_time(5)
    assert key(1, 1) not in it.world.claims
    del it.world.runs[key(1, 1)]
    it.pass_time(60)
    assert (it.status["phase"], it.world.stops) == ("Running", [])
    it.world.end(key(1, 0))
    it.settle()
    assert (it.status["phase"], len(it.status["attempts"])) == ("Succeeded", 1)
    assert it.status["outputs"] == [{"name": "model"} | committed]


def test_the_time_limit_is_of_all_attempts_and_final() -> None:
    it = loop(job(retries=5, time_limit="10s"))
    it.settle()
    assert it.world.specs[key(1)].time_limit == 10
    it.world.start(key(1))
    it.pass_time(6)
    it.world.end(key(1), RunReason.FAILED, 1)
    it.settle()
    it.pass_time(5)
    assert it.world.specs[key(2)].time_limit == pytest.approx(4)
    it.world.start(key(2))
    it.pass_time(4)
    it.world.end(key(2), RunReason.TIME_LIMIT, 143, "ran longer than 10s")
    it.settle()
    assert (it.status["phase"], it.status["reason"]) == ("Failed", "TimeLimit")


def test_cancel_stops_and_keeps_the_account() -> None:
    asked: list[float] = []
    it = loop(job(), cancel=asked)
    it.settle()
    it.world.start(key())
    it.pass_time(3)
    asked.append(it.world.now)
    assert it.step().status["phase"] == "Cancelling"
    it.settle()
    assert it.status["phase"] == "Cancelled"
    assert it.world.stops == [key()]
    assert it.world.claims == {}
    assert it.settle().wake_in is None


def test_cancel_of_a_queued_job_starts_nothing() -> None:
    asked: list[float] = []
    it = loop(job(), World(room=0), cancel=asked)
    it.settle()
    asked.append(it.world.now)
    it.settle()
    assert it.status["phase"] == "Cancelled"
    assert it.world.starts == []
    assert it.world.claims == {}


def test_a_job_that_ended_before_the_cancel_keeps_its_end() -> None:
    asked: list[float] = []
    it = loop(job(), cancel=asked)
    it.settle()
    it.world.end(key())
    asked.append(it.world.now)
    assert it.settle().status["phase"] == "Succeeded"


def test_delete_stops_releases_forgets_then_removes() -> None:
    it = loop(job(replicas=2))
    it.settle()
    it.world.start(key(1, 0))
    it.resource = replace(it.resource, deleting=it.world.time)
    for _ in range(6):
        if not it.world.removed:
            it.step()
    assert it.world.removed
    assert set(it.world.stops) == {key(1, 0), key(1, 1)}
    assert it.world.emptied == [f"s3://mw-default/logs/{UID}/"]


def test_the_record_survives_its_storage() -> None:
    it = loop(job(retries=1, replicas=2))
    it.settle()
    it.world.start(key(1, 0))
    it.world.end(key(1, 1), RunReason.FAILED, 9, "exit code 9")
    it.settle()
    assert Record.of(it.status).status(1) == it.status


_EVENTS = st.sampled_from(["start", "complete", "fail", "lose", "stop", "forget", "wait", "crash", "cancel", "pass"])


@settings(deadline=None)
@given(
    replicas=st.integers(1, 3),
    retries=st.integers(0, 2),
    room=st.integers(0, 4),
    events=st.lists(st.tuples(_EVENTS, st.integers(0, 7)), max_size=40),
)
def test_never_two_live_attempts_and_always_rest(
    replicas: int, retries: int, room: int, events: list[tuple[str, int]]
) -> None:
    asked: list[float] = []
    it = loop(job(replicas=replicas, retries=retries), World(room=room), asked)
    for event, number in events:
        live = sorted(it.world.live)
        target = live[number % len(live)] if live else None
        match event:
            case "start" if target:
                it.world.start(target)
            case "complete" if target:
                it.world.end(target)
            case "fail" if target:
                it.world.end(target, RunReason.FAILED, 1)
            case "lose" if target:
                it.world.end(target, RunReason.LOST)
            case "stop" if target:
                it.world.end(target, RunReason.STOPPED, 143)
            case "forget" if target:
                # One that no pass has seen yet is started again: nobody can tell it from one that never was.
                if target in [line["key"] for line in it.status.get("replicas", ())]:
                    del it.world.runs[target]
            case "wait":
                it.world.now += number * 10
            case "cancel":
                asked.append(it.world.now)
            case "crash":
                it.step(crash=True)
            case _:
                it.step()
        assert len({run.split("/")[1] for run in it.world.live}) <= 1
        assert len(it.world.starts) == len(set(it.world.starts))
        assert len([claim for claim in it.world.claims.values() if claim.node]) <= room
    it.settle()
    if it.status["phase"] in ("Succeeded", "Failed", "Cancelled"):
        assert it.world.live == []
        assert it.world.claims == {}
    attempts = it.status["attempts"]
    assert sum(not item.get("infrastructure", False) for item in attempts) <= retries + 1
    assert sum(item.get("infrastructure", False) for item in attempts) <= INFRASTRUCTURE_RETRIES + 1


def test_a_job_is_done_without_those_who_only_serve_it() -> None:
    roles = [{"name": "worker", "replicas": 2}, {"name": "ps"}]
    it = loop(job(framework="tensorflow", roles=roles))
    it.settle()
    for rank in range(3):
        it.world.start(key(1, rank))
    it.pass_time(1)
    for rank in range(2):
        assert it.status["phase"] != "Succeeded"
        it.world.end(key(1, rank))
        it.settle()
    assert it.world.stops == [key(1, 2)]
    assert (it.status["phase"], it.world.live) == ("Succeeded", [])
    assert set(it.world.released) == {key(1, rank) for rank in range(3)}


def test_who_serves_the_others_ends_the_job_when_it_fails() -> None:
    it = loop(job(framework="tensorflow", roles=[{"name": "worker"}, {"name": "ps"}]))
    it.settle()
    for rank in range(2):
        it.world.start(key(1, rank))
    it.world.end(key(1, 1), RunReason.FAILED, 3)
    it.settle()
    assert it.status["phase"] == "Failed"
    assert it.status["message"].startswith("replica 1")
