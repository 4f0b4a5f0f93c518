"""Replicas that ran out of memory come back smaller; those that hang are replaced."""

from __future__ import annotations

from tests.service_loop import addresses, loop, make_ready, service, up
from tests.simulated import Loop, World

from modelworks.kernel.run import RunReason
from modelworks.kernel.traffic import Sample, Traffic
from modelworks.products.serving.hung import replica_id


def starved(it: Loop) -> str:
    """One more replica that ran out of memory, and its successor."""
    key = it.world.live[0]
    it.world.end(key, RunReason.OUT_OF_MEMORY, 137, "OutOfMemory: used 2.1Gi of 2Gi")
    it.settle()
    it.pass_time(60)
    (again,) = set(it.world.live)
    return again


def replica(it: Loop) -> dict[str, object]:
    assert it.world.route is not None
    (found,) = it.world.route["replicas"]
    return dict(found)


def test_out_of_memory_halves_batch_and_concurrency_and_recovers() -> None:
    it = loop(service(replicas=1, batching={"max_batch_size": 8, "max_batch_delay_ms": 2}, concurrency=4), World())
    it.settle()
    (first,) = it.world.live
    assert it.world.specs[first].env["MW_MAX_BATCH_SIZE"] == "8"
    assert it.world.specs[first].env["MW_MAX_BATCH_DELAY_MS"] == "2"
    make_ready(it)
    assert "limit" not in replica(it)
    for size, limit in (("4", 2), ("2", 1), ("1", 1), ("1", 1)):
        again = starved(it)
        assert it.world.specs[again].env["MW_MAX_BATCH_SIZE"] == size
        make_ready(it)
        assert (replica(it)["limit"], replica(it)["slow"]) == (limit, True)
        assert "ran out of memory and gets smaller batches" in it.status["message"]
    for _ in range(4):
        it.pass_time(301)
    assert "limit" not in replica(it)
    assert it.status["message"] == "1 of 1 replicas ready"


def hang(it: Loop, *keys: str) -> None:
    ids = frozenset(replica_id(key) for key in keys)
    it.world.traffic = Traffic((Sample(it.world.now, hung=ids),))
    it.settle()


def test_a_hung_replica_is_replaced_at_once() -> None:
    it = up(3)
    bad = it.world.live[1]
    hang(it, bad)
    assert it.world.stops == [bad]
    assert len(addresses(it)) == 2
    assert len(it.world.live) == 3
    make_ready(it)
    assert it.status["phase"] == "Running"
    it.world.traffic = Traffic()
    it.pass_time(61)
    assert it.world.stops == [bad]


def test_when_all_hang_one_is_replaced_after_the_other() -> None:
    it = up(3)
    all_of_them = tuple(it.world.live)
    hang(it, *all_of_them)
    assert len(it.world.stops) == 1
    hang(it, *all_of_them)
    assert len(it.world.stops) == 1, "its successor has not come up yet"
    make_ready(it)
    hang(it, *all_of_them)
    assert len(it.world.stops) == 3, "the new one answers: it is the replicas, and not what they wait for"


def test_what_a_gateway_said_long_ago_is_no_reason() -> None:
    it = up(1)
    ids = frozenset(replica_id(key) for key in it.world.live)
    it.world.traffic = Traffic((Sample(it.world.now - 60, hung=ids),))
    it.settle()
    assert it.world.stops == []


def test_one_behind_a_relay_is_told_with_its_run_and_one_out_of_reach_says_why() -> None:
    it = loop(service(replicas=1), World())
    it.settle()
    (key,) = it.world.live
    problem = "the relay of this node cannot start: 10.0.0.7 port 7000 cannot be listened at: Address already in use"
    it.world.start(key, ready=True)
    it.world.runs[key] = it.world.runs[key].model_copy(update={"address": None, "message": problem})
    it.settle()
    assert (it.status["phase"], it.status["message"]) == ("Starting", f"replica 0: {problem}")
    assert addresses(it) == set()
    it.world.runs[key] = it.world.runs[key].model_copy(update={"address": "tcp:10.0.0.7:7000", "message": ""})
    it.settle()
    assert it.status["phase"] == "Running"
    assert (replica(it)["address"], replica(it)["run"]) == ("tcp:10.0.0.7:7000", key)
