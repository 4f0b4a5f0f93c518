"""The loop as a whole: from apply to the end of a run, through crashes, absences and faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from tests.sample_kind import KINDS, SAMPLE, MemoryRuntime, manifest

from modelworks.control.act import Actor
from modelworks.control.apply import apply
from modelworks.control.delete import delete
from modelworks.control.fleet import Fleet
from modelworks.control.observer import Observer, Recorder
from modelworks.control.reconcile import Reconciler
from modelworks.control.scheduler import Scheduler, admit
from modelworks.db import events, resources
from modelworks.db.engine import connect
from modelworks.db.listen import CLAIMS, RESOURCES, Listener
from modelworks.db.migrate import migrate
from modelworks.db.secrets import Cipher
from modelworks.kernel.decision import Decision
from modelworks.kernel.errors import Unavailable
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.kind import Kind
from modelworks.settings import Settings


class Killed(BaseException):
    """Stands for the end of the process: no handler of ours may catch it."""


def refuse_credentials() -> Any:
    raise AssertionError("no test here needs the object store")


@dataclass
class Platform:
    """A database, one node, and as many controllers as a test wants."""

    url: str
    engine: Engine
    node: MemoryRuntime
    volumes: Path

    def actor(self, fleet: Fleet) -> Actor:
        return Actor(self.engine, fleet, Cipher(b"k" * 32), refuse_credentials, self.volumes)

    @contextmanager
    def controller(self, kinds: dict[str, Kind] = KINDS, owner: str = "test") -> Iterator[Reconciler]:
        """Everything that ``control/process`` starts, but the API."""
        fleet, listener = Fleet(), Listener(self.url)
        reconciler = Reconciler(self.engine, kinds, Settings(), fleet, self.actor(fleet), owner=owner, poll=0.5)
        scheduler = Scheduler(self.engine, poll=0.5)
        observer = Observer(self.node, fleet, reconciler.wake, Recorder(self.engine))
        listener.subscribe(RESOURCES, reconciler.wake)
        listener.subscribe(CLAIMS, scheduler.wake)
        threads: tuple[Any, ...] = (listener, observer, scheduler, reconciler)
        for thread in threads:
            thread.start()
        try:
            yield reconciler
        finally:
            for thread in reversed(threads):
                thread.stop()
            listener.join(10)
            observer.join(10)

    def stepper(self, kinds: dict[str, Kind] = KINDS, owner: str = "step") -> tuple[Reconciler, Fleet]:
        """A controller without threads: the test calls ``round``."""
        fleet = Fleet()
        picture = fleet.join(self.node.node().name, self.node)
        picture.replace_all(picture.begin(), self.node.observe())
        Recorder(self.engine).seen(self.node.node())
        return Reconciler(self.engine, kinds, Settings(), fleet, self.actor(fleet), owner=owner), fleet

    def apply(self, name: str, **spec: Any) -> Resource:
        return apply(self.engine, [manifest(name, **spec)], Settings(), KINDS)[0].resource

    def get(self, uid: str) -> Resource | None:
        with self.engine.connect() as connection:
            return resources.get_by_uid(connection, uid)

    def phase(self, uid: str) -> str:
        found = self.get(uid)
        return "gone" if found is None else str(found.status.get("phase", ""))

    def reasons(self, uid: str) -> list[str]:
        with self.engine.connect() as connection:
            return [event.reason for event in events.latest(connection, uid, 100)]

    def rows(self, table: str, uid: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.scalar(text(f"SELECT count(*) FROM {table} WHERE uid = :uid"), {"uid": uid}) or 0)

    def open_ledger(self, uid: str) -> int:
        with self.engine.connect() as connection:
            query = text("SELECT count(*) FROM ledger WHERE uid = :uid AND ended_at IS NULL")
            return int(connection.scalar(query, {"uid": uid}) or 0)

    def expire_leases(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE resources SET lease_expires = now() WHERE lease_token IS NOT NULL"))


def eventually(check: Callable[[], object], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def platform(database_url: str, tmp_path: Path) -> Iterator[Platform]:
    migrate(database_url)
    engine = connect(database_url)
    yield Platform(database_url, engine, MemoryRuntime(), tmp_path)
    engine.dispose()


def test_from_apply_to_the_end(platform: Platform) -> None:
    with platform.controller():
        uid = platform.apply("a").uid
        eventually(lambda: platform.phase(uid) == "Running")
        assert platform.rows("claims", uid) == platform.rows("routes", uid) == platform.rows("secrets", uid) == 1
        assert platform.open_ledger(uid) == 2
        platform.node.end(f"{uid}/a1/0/0")
        eventually(lambda: platform.phase(uid) == "Done")
        assert platform.rows("claims", uid) == 0
        assert platform.open_ledger(uid) == 1  # the volume
        delete(platform.engine, Ref("default", "Sample", "a"), KINDS)
        eventually(lambda: platform.phase(uid) == "gone")
    assert platform.rows("routes", uid) == platform.rows("secrets", uid) == platform.open_ledger(uid) == 0
    assert platform.node.ensured == [f"{uid}/a1/0/0"]
    assert platform.reasons(uid) == ["Created", "Done", "Deleting", "Deleted"]


def test_delete_ends_what_runs(platform: Platform) -> None:
    with platform.controller():
        uid = platform.apply("a").uid
        eventually(lambda: platform.phase(uid) == "Running")
        delete(platform.engine, Ref("default", "Sample", "a"), KINDS)
        eventually(lambda: platform.phase(uid) == "gone")
    assert platform.node.observe(uid) == []


def test_data_needs_no_product(platform: Platform) -> None:
    with platform.controller():
        note = apply(platform.engine, [manifest("n", "Note", text="x")], Settings(), KINDS)[0].resource
        eventually(lambda: platform.phase(note.uid) == "Ready")
        delete(platform.engine, note.ref, KINDS)
        eventually(lambda: platform.phase(note.uid) == "gone")


def test_many_resources_and_two_controllers_start_each_run_once(platform: Platform) -> None:
    """Also: nobody works on a resource while somebody else does."""
    busy: set[str] = set()
    lock = threading.Lock()

    def enter(key: str) -> None:
        with lock:
            assert key not in busy
            busy.add(key)
        time.sleep(0.002)
        with lock:
            busy.remove(key)

    platform.node.before_ensure = enter
    with platform.controller(owner="one"), platform.controller(owner="two"):
        uids = [platform.apply(f"r{index}").uid for index in range(20)]
        eventually(lambda: all(platform.phase(uid) == "Running" for uid in uids))
        for uid in uids:
            platform.node.end(f"{uid}/a1/0/0")
        eventually(lambda: all(platform.phase(uid) == "Done" for uid in uids))
    assert sorted(platform.node.ensured) == sorted(f"{uid}/a1/0/0" for uid in uids)


def _advance(platform: Platform, reconciler: Reconciler, uid: str) -> None:
    """One pass over everything that is due or was changed, to its end, and an admission."""
    reconciler.wake(uid)
    reconciler.wake("")
    reconciler.round()
    reconciler.stop()
    admit(platform.engine)


@pytest.mark.parametrize("step", range(14))
def test_a_controller_killed_at_any_step_is_repaired(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Die before the n-th step of actions, commits and status writes; another controller finishes what was begun."""
    uid = platform.apply("a").uid
    left = step

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*arguments, **named)

        return call

    with monkeypatch.context() as patched:
        for name in ("_store", "_reach", "_guard", "_finish"):
            patched.setattr(Actor, name, dying(getattr(Actor, name)))
        # Six passes are enough for the whole way when nobody dies.
        for _ in range(6):
            reconciler, _fleet = platform.stepper(owner="dying")
            _advance(platform, reconciler, uid)
            if left < 0:
                break
            if platform.phase(uid) == "Running":
                platform.node.end(f"{uid}/a1/0/0")
    platform.expire_leases()
    with platform.controller(owner="heir"):
        eventually(lambda: platform.phase(uid) in ("Running", "Done"))
        platform.node.end(f"{uid}/a1/0/0")
        eventually(lambda: platform.phase(uid) == "Done")
    assert platform.node.ensured == [f"{uid}/a1/0/0"]
    assert platform.reasons(uid).count("Done") == 1
    assert platform.rows("claims", uid) == 0
    assert platform.rows("ledger", uid) == 2
    assert platform.open_ledger(uid) == 1


def test_a_controller_that_returns_takes_up_its_own_leases_at_once(platform: Platform) -> None:
    uid = platform.apply("a").uid
    with platform.engine.begin() as connection:
        assert resources.lease_due(connection, "test", 10, 3600)
    with platform.controller(owner="test"):
        eventually(lambda: platform.phase(uid) == "Running")


def test_a_database_that_goes_away_between_two_statements_leaves_no_lease(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were leased by their names are given back when the question for due ones finds no answer."""
    uid = platform.apply("a").uid
    reconciler, _fleet = platform.stepper()
    reconciler.round()  # it has recovered, and knows what is due
    reconciler.stop()
    reconciler, _fleet = platform.stepper()
    reconciler.wake(uid)

    def away(*_: Any) -> Any:
        assert _leased(platform)
        raise Unavailable("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(resources, "lease_due", away)
        with pytest.raises(Unavailable):
            reconciler.round()
    assert reconciler.round() == 1
    reconciler.stop()
    assert not _leased(platform)


def test_a_node_that_is_away_changes_nothing(platform: Platform) -> None:
    with platform.controller():
        uid = platform.apply("a").uid
        eventually(lambda: platform.phase(uid) == "Running")
        before = platform.get(uid)
        platform.node.go_away()
        platform.apply("a", replicas=2)
        other = platform.apply("b").uid
        # Both were tried, and sleep until they are tried again.
        eventually(lambda: not _leased(platform) and not _due(platform))
        during = platform.get(uid)
        platform.node.go_away(False)
        eventually(lambda: platform.phase(other) == "Running")
        eventually(lambda: _observed_generation(platform, uid) == 2)
    assert before is not None
    assert during is not None
    assert during.status == before.status
    assert platform.phase(uid) == "Running"
    assert platform.node.ensured == [f"{uid}/a1/0/0", f"{other}/a1/0/0"]


def test_a_faulty_resource_backs_off_alone_and_tells_once(platform: Platform) -> None:
    calls: list[str] = []

    def faulty(resource: Resource, observed: Any, now: Any) -> Decision:
        if resource.ref.name == "bad":
            calls.append(resource.uid)
            raise RuntimeError("no idea")
        assert SAMPLE.decide is not None
        return SAMPLE.decide(resource, observed, now)

    kinds = {**KINDS, "Sample": replace(SAMPLE, decide=faulty)}
    with platform.controller(kinds):
        bad = platform.apply("bad").uid
        good = platform.apply("good").uid
        eventually(lambda: platform.phase(good) == "Running")
        eventually(lambda: len(calls) >= 2)
    assert platform.reasons(bad) == ["Created", "ReconcileFailed"]


def test_a_spec_of_another_release_is_told_in_the_status_and_nothing_of_it_is_touched(platform: Platform) -> None:
    def reads(resource: Resource, observed: Any, now: Any) -> Decision:
        SAMPLE.spec.parse(resource.spec, at="spec")
        assert SAMPLE.decide is not None
        return SAMPLE.decide(resource, observed, now)

    def alter(uid: str) -> None:
        with platform.engine.begin() as connection:
            query = """UPDATE resources SET spec = spec || '{"colour": "red"}', wake_at = now() WHERE uid = :uid"""
            connection.execute(text(query), {"uid": uid})

    new = platform.apply("new").uid
    alter(new)
    with platform.controller({**KINDS, "Sample": replace(SAMPLE, decide=reads)}) as controller:
        begun = platform.apply("begun").uid
        eventually(lambda: platform.phase(begun) == "Running")
        eventually(lambda: not _leased(platform))
        alter(begun)
        controller.wake(begun)
        eventually(lambda: "SpecInvalid" in platform.reasons(begun))
        eventually(lambda: platform.phase(new) == "Failed")
    for uid, phase in ((new, "Failed"), (begun, "Running")):
        found = platform.get(uid)
        assert found is not None
        assert found.status["phase"] == phase
        assert "spec.colour: unknown field" in found.status["message"]
        assert platform.reasons(uid).count("SpecInvalid") == 1
    assert [run.phase for run in platform.node.observe(begun)] == ["Running"]


def test_a_pass_over_sleeping_resources_touches_nothing(platform: Platform) -> None:
    with platform.controller() as reconciler:
        notes = [
            apply(platform.engine, [manifest(f"n{i}", "Note")], Settings(), KINDS)[0].resource.uid for i in range(5)
        ]
        eventually(lambda: all(platform.phase(uid) == "Ready" for uid in notes))
        before = [platform.get(uid) for uid in notes]
        for uid in notes:
            reconciler.wake(uid)
        eventually(lambda: not _leased(platform))
        assert [platform.get(uid) for uid in notes] == before


def _leased(platform: Platform) -> bool:
    with platform.engine.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM resources WHERE lease_token IS NOT NULL")))


def _due(platform: Platform) -> bool:
    with platform.engine.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM resources WHERE wake_at <= now()")))


def _observed_generation(platform: Platform, uid: str) -> int:
    found = platform.get(uid)
    return 0 if found is None else int(found.status.get("observed_generation", 0))
