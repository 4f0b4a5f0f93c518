"""Apply: created, updated, unchanged; all or nothing; every refusal names its field."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text
from tests.sample_kind import KINDS, manifest

from modelworks.control.apply import Applied, Outcome, apply
from modelworks.control.delete import delete
from modelworks.db import claims, events, resources
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.kernel.decision import Claim
from modelworks.kernel.errors import Conflict, Invalid, ModelworksError, NotFound
from modelworks.kernel.resource import Ref
from modelworks.kernel.run import Resources
from modelworks.settings import Settings


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    migrate(database_url)
    engine = connect(database_url)
    yield engine
    engine.dispose()


def do(engine: Engine, *manifests: Any, dry_run: bool = False) -> list[Applied]:
    return apply(engine, manifests, Settings(), KINDS, dry_run=dry_run)


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM resources")) or 0)


def reasons(engine: Engine, uid: str) -> list[str]:
    with engine.connect() as connection:
        return [event.reason for event in events.latest(connection, uid)]


def test_create_update_and_nothing(engine: Engine) -> None:
    (first,) = do(engine, manifest("a", replicas=1))
    assert first.action is Outcome.CREATED
    assert first.resource.generation == 1
    (again,) = do(engine, manifest("a", replicas=1))
    assert again.action is Outcome.UNCHANGED
    assert again.resource.version == first.resource.version
    (second,) = do(engine, manifest("a", replicas=3, command="sleep"))
    assert second.action is Outcome.UPDATED
    assert [(c.path, c.before, c.after) for c in second.changes] == [
        ("spec.command", "true", "sleep"),
        ("spec.replicas", 1, 3),
    ]
    assert second.resource.generation == 2
    assert second.resource.version > first.resource.version
    assert reasons(engine, first.resource.uid) == ["Created", "Updated"]


def test_labels_are_a_change_too(engine: Engine) -> None:
    do(engine, manifest("a", labels={"team": "x"}))
    (second,) = do(engine, manifest("a", labels={"team": "y"}))
    assert [c.path for c in second.changes] == ["metadata.labels.team"]


def test_what_a_name_stands_for_is_compared(engine: Engine) -> None:
    results = do(engine, manifest("n", "Note", text="one"), manifest("a", note="n"))
    assert [r.action for r in results] == [Outcome.CREATED, Outcome.CREATED]
    assert results[1].notes == ("uses note n",)
    results = do(engine, manifest("n", "Note", text="two"), manifest("a", note="n"))
    assert [(c.path, c.after) for c in results[1].changes] == [("resolved.text", "two")]


def test_a_dry_run_stores_nothing(engine: Engine) -> None:
    results = do(engine, manifest("n", "Note", text="one"), manifest("a", note="n"), dry_run=True)
    assert [r.action for r in results] == [Outcome.CREATED, Outcome.CREATED]
    assert count(engine) == 0
    do(engine, manifest("a"))
    (would,) = do(engine, manifest("a", replicas=9), dry_run=True)
    assert [c.path for c in would.changes] == ["spec.replicas"]
    (unchanged,) = do(engine, manifest("a"))
    assert unchanged.action is Outcome.UNCHANGED


WRONG: list[tuple[list[Any], set[str]]] = [
    ([], {"manifests"}),
    (["text"], {""}),
    ([{}], {"kind", "metadata"}),
    ([manifest("a", "Sampel")], {"kind"}),
    ([manifest("UPPER")], {"metadata.name"}),
    ([manifest("a", replicas=-1)], {"spec.replicas"}),
    ([manifest("a", replica=1)], {"spec.replica"}),
    ([manifest("a", note="missing")], {"spec.note"}),
    ([manifest("a"), manifest("b", replicas="x")], {"manifests.1.spec.replicas"}),
    ([manifest("a"), manifest("b", note="missing")], {"manifests.1.spec.note"}),
    ([manifest("a", replicas=-1), manifest("b", "X")], {"manifests.0.spec.replicas", "manifests.1.kind"}),
    ([manifest("a"), manifest("a")], {"manifests.1.metadata.name"}),
    ([manifest("a") | {"apiVersion": "v2"}], {"apiVersion"}),
    ([manifest("a") | {"extra": 1}], {"extra"}),
]


@pytest.mark.parametrize(("manifests", "paths"), WRONG)
def test_refusals_name_the_field_and_store_nothing(engine: Engine, manifests: list[Any], paths: set[str]) -> None:
    with pytest.raises(Invalid) as caught:
        do(engine, *manifests)
    assert {field.path for field in caught.value.fields} == paths
    assert count(engine) == 0


def test_an_unknown_kind_lists_the_kinds(engine: Engine) -> None:
    with pytest.raises(Invalid, match="did you mean Sample") as caught:
        do(engine, manifest("a", "Sampel"))
    assert "Note, Sample" in caught.value.fields[0].message


def test_what_cannot_change_is_a_conflict(engine: Engine) -> None:
    do(engine, manifest("a", size=1))
    with pytest.raises(Conflict) as caught:
        do(engine, manifest("a", size=2))
    assert [field.path for field in caught.value.fields] == ["spec.size"]


def test_a_deleting_resource_is_a_conflict(engine: Engine) -> None:
    do(engine, manifest("a"))
    delete(engine, Ref("default", "Sample", "a"), KINDS)
    with pytest.raises(Conflict, match="being deleted"):
        do(engine, manifest("a"))


def test_many_at_once_make_one(engine: Engine) -> None:
    actions: list[Outcome | ModelworksError] = []

    def work() -> None:
        try:
            actions.append(do(engine, manifest("a"))[0].action)
        except ModelworksError as error:
            actions.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, actions)) == ["created", *["unchanged"] * 7]


def test_delete_marks_once_and_tells_what_stays(engine: Engine) -> None:
    (made,) = do(engine, manifest("a", volumes=[{"name": "scratch"}]))
    (other,) = do(engine, manifest("b", volumes=[{"name": "scratch"}]))
    ref = made.resource.ref
    first = delete(engine, ref, KINDS)
    assert first.resource.deleting is not None
    assert "volume scratch stays" in first.notes[0]
    assert delete(engine, ref, KINDS).resource.deleting == first.resource.deleting
    assert reasons(engine, made.resource.uid) == ["Created", "Deleting"]
    with engine.begin() as connection:
        claims.reserve(connection, other.resource.uid, [Claim("b/a/0/0", "a", Resources(), "x", 0.1)])
    assert delete(engine, ref, KINDS).notes == ()
    with pytest.raises(NotFound):
        delete(engine, Ref("default", "Sample", "none"), KINDS)


def test_an_apply_asks_for_a_pass(engine: Engine) -> None:
    do(engine, manifest("a"))
    with engine.begin() as connection:
        (held,) = resources.lease_due(connection, "me", 10, 60)
        resources.settle(connection, [resources.Settled(held, None)])
    do(engine, manifest("a", replicas=2))
    with engine.begin() as connection:
        assert len(resources.lease_due(connection, "me", 10, 60)) == 1
