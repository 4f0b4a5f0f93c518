"""What every Runtime does, the fake one included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from tests.agents import observe, run_spec, running_agent, wait_ended, wait_for

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.errors import Conflict, NotFound, Unavailable
from modelworks.kernel.run import RunPhase, RunReason, RunSpec
from modelworks.runtime.base import Runtime
from modelworks.runtime.fake import FakeRuntime, Outcome
from modelworks.runtime.local import kill_all

# Commands that real machines run and the fake one knows.
GOOD = ("sh", "-c", "echo hello")
BAD = ("sh", "-c", "echo oops; exit 3")
LONG = ("sleep", "600")
OUTCOMES = {
    GOOD: Outcome(duration=0.0, log=b"hello\n"),
    BAD: Outcome(duration=0.0, exit_code=3, log=b"oops\n"),
    LONG: Outcome(),
}


def _fake(home: Home) -> Iterator[Runtime]:
    yield FakeRuntime(outcome=lambda spec: OUTCOMES[spec.command])


def _in_process(home: Home) -> Iterator[Runtime]:
    with InProcessAgent(home) as agent:
        yield agent
        kill_all(home, grace=0.0)


def _process(home: Home) -> Iterator[Runtime]:
    with running_agent(home) as agent:
        yield agent.client


@pytest.fixture(params=[_fake, _in_process, _process], ids=["fake", "in-process", "agent"])
def runtime(request: pytest.FixtureRequest, home: Home) -> Iterator[Runtime]:
    make: Callable[[Home], Iterator[Runtime]] = request.param
    yield from make(home)


def test_a_good_run_completes(runtime: Runtime) -> None:
    run = run_spec(0, *GOOD)
    assert runtime.ensure(run).key == run.key
    seen = wait_ended(runtime, run.key)
    assert (seen.phase, seen.reason, seen.exit_code) == (RunPhase.EXITED, RunReason.COMPLETED, 0)
    assert seen.started_at is not None
    assert seen.exited_at is not None
    assert seen.created_at <= seen.started_at <= seen.exited_at
    assert runtime.log(run.key) == b"hello\n"
    assert runtime.log(run.key, offset=2, limit=3) == b"llo"
    assert runtime.log(run.key, offset=6) == b""
    assert seen.log_bytes == 6


def test_a_bad_run_tells_its_exit_code_and_last_lines(runtime: Runtime) -> None:
    run = run_spec(0, *BAD)
    runtime.ensure(run)
    seen = wait_ended(runtime, run.key)
    assert (seen.reason, seen.exit_code, seen.last_lines) == (RunReason.FAILED, 3, ("oops",))
    assert "exit code 3" in seen.message


def test_ensure_finds_what_is_there(runtime: Runtime) -> None:
    run = run_spec(0, *LONG)
    runtime.ensure(run)
    first = wait_for(runtime, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
    other = RunSpec(**(dict(run) | {"command": GOOD}))
    assert runtime.ensure(other).pid == first.pid
    runtime.stop(run.key, 1.0)
    ended = wait_ended(runtime, run.key)
    assert runtime.ensure(run) == ended


def test_stop(runtime: Runtime) -> None:
    run = run_spec(0, *LONG)
    runtime.ensure(run)
    wait_for(runtime, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
    runtime.stop(run.key, 10.0)
    runtime.stop(run.key, 10.0)
    seen = wait_ended(runtime, run.key)
    assert (seen.phase, seen.reason, seen.exit_code, seen.signal) == (RunPhase.EXITED, RunReason.STOPPED, 143, 15)
    runtime.stop(run.key, 1.0, "TimeLimit")
    assert observe(runtime, run.key) == seen


def test_the_reason_of_a_stop_is_kept(runtime: Runtime) -> None:
    run = run_spec(0, *LONG)
    runtime.ensure(run)
    runtime.stop(run.key, 5.0, "TimeLimit")
    assert wait_ended(runtime, run.key).reason is RunReason.TIME_LIMIT


def test_unknown_keys(runtime: Runtime) -> None:
    runtime.stop("nobody/a1/0/0", 1.0)
    runtime.forget("nobody/a1/0/0")
    assert list(runtime.observe("nobody/")) == []
    with pytest.raises(NotFound):
        runtime.log("nobody/a1/0/0")
    with pytest.raises(NotFound):
        runtime.metrics("nobody/a1/0/0")


def test_stacks_tell_what_a_living_run_does(runtime: Runtime) -> None:
    run = run_spec(0, *LONG)
    with pytest.raises(NotFound):
        runtime.stacks(run.key)
    runtime.ensure(run)
    wait_for(runtime, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
    assert "process " in runtime.stacks(run.key)
    assert runtime.log(run.key) == b""
    text = runtime.stacks(run.key, record=True)
    log = runtime.log(run.key).decode()
    assert all(line.startswith("modelworks: ") for line in log.splitlines())
    assert text.splitlines()[0] in log
    runtime.stop(run.key, 1.0)
    wait_ended(runtime, run.key)
    with pytest.raises(Conflict):
        runtime.stacks(run.key)


def test_observe_by_prefix(runtime: Runtime) -> None:
    for number, uid in enumerate(("firstone", "firsttwo")):
        runtime.ensure(run_spec(number, *GOOD, uid=uid))
    assert [seen.key for seen in runtime.observe("firstone/")] == ["firstone/a1/0/0"]
    assert len(runtime.observe("")) == 2
    for seen in runtime.observe(""):
        wait_ended(runtime, seen.key)


def test_forget(runtime: Runtime) -> None:
    run = run_spec(0, *LONG)
    runtime.ensure(run)
    with pytest.raises(Conflict):
        runtime.forget(run.key)
    runtime.stop(run.key, 1.0)
    wait_ended(runtime, run.key)
    runtime.forget(run.key)
    runtime.forget(run.key)
    assert list(runtime.observe(run.key)) == []


def test_changes_tell_every_key_once_after_a_cursor(runtime: Runtime) -> None:
    run = run_spec(0, *GOOD)
    before, _ = runtime.changes(0, 0.0)
    runtime.ensure(run)
    wait_ended(runtime, run.key)
    cursor, keys = runtime.changes(before, 0.0)
    assert list(keys) == [run.key]
    assert list(runtime.changes(0, 0.0)[1]).count(run.key) == 1
    same, nothing = runtime.changes(cursor, 0.0)
    assert (same, list(nothing)) == (cursor, [])
    runtime.forget(run.key)
    later, keys = runtime.changes(cursor, 5.0)
    assert later > cursor
    assert list(keys) == [run.key]


def test_one_key_ensured_at_once_starts_one_process(runtime: Runtime) -> None:
    run = run_spec(0, *GOOD)
    threads = [threading.Thread(target=runtime.ensure, args=(run,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_ended(runtime, run.key)
    assert runtime.log(run.key) == b"hello\n"
    assert len(runtime.observe("")) == 1


def test_node(runtime: Runtime) -> None:
    node = runtime.node()
    assert node.name
    assert node.capacity.cpu >= 1000
    assert node.capacity.memory > 0


def test_a_lease_is_needed_to_begin_and_kept_by_answers(runtime: Runtime) -> None:
    first = runtime.challenge()
    assert runtime.challenge() != first
    run = run_spec(0, *LONG, lease=60.0, challenge=first)
    runtime.ensure(run)
    runtime.renew(first)
    runtime.renew(runtime.challenge())
    with pytest.raises(Conflict):
        runtime.renew("another's")
    for number, lease, word in ((1, 60.0, "another's"), (2, 60.0, "")):
        with pytest.raises(Unavailable):
            runtime.ensure(run_spec(number, *LONG, lease=lease, challenge=word))
    # One that is there is found, whatever comes with it.
    assert runtime.ensure(run_spec(0, *LONG, lease=60.0)).key == run.key
    assert [seen.key for seen in runtime.observe("")] == [run.key]
    runtime.stop(run.key, 1.0)
    wait_ended(runtime, run.key)
