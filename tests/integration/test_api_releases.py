"""Canaries, rollbacks and revisions over the real API and database; no controller acts on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.api_server import Api, serving

from modelworks.db import revisions
from modelworks.home import Home

SPEC = {"processor": "command", "command": "serve", "instance_type": "local.tiny", "env": {"A": "1"}}


@pytest.fixture
def api(home: Home, database_url: str) -> Iterator[Api]:
    with serving(home, database_url) as served:
        yield served


def made(api: Api, **spec: Any) -> dict[str, Any]:
    (result,) = api.apply({"kind": "Service", "metadata": {"name": "one"}, "spec": {**SPEC, **spec}})
    resource: dict[str, Any] = result["resource"]
    return resource


def post(api: Api, what: str, body: dict[str, Any], status: int = 202) -> dict[str, Any]:
    answer = api.client.post(f"/services/one/{what}", json=body)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_a_canary_from_its_first_request_to_its_promotion(api: Api) -> None:
    made(api, replicas=3)
    assert "--canary-model" in post(api, "canary", {"weight": 10}, 409)["remedy"]
    begun = post(api, "canary", {"env": {"B": "2"}, "weight": 10})
    assert begun["spec"]["canary"]["weight"] == 10
    assert begun["resolved"]["canary"]["instance_type"] == "local.tiny"
    same = post(api, "canary", {"weight": 10})
    assert same["metadata"]["generation"] == begun["metadata"]["generation"]
    moved = post(api, "canary", {"weight": 50})
    assert (moved["spec"]["canary"]["weight"], moved["spec"]["canary"]["env"]) == (50, {"B": "2"})
    done = post(api, "canary", {"weight": 100})
    assert (done["spec"]["env"], done["spec"]["replicas"]) == ({"A": "1", "B": "2"}, 3)
    assert "canary" not in done["spec"]
    assert "canary" not in done["resolved"]


def test_what_a_canary_may_not_be(api: Api) -> None:
    made(api)
    unknown = post(api, "canary", {"model": "nothing:1", "weight": 10}, 422)
    assert unknown["errors"][0]["path"] == "spec.canary.model"
    assert post(api, "canary", {"entry": "a.py:B"}, 422)["status"] == 422
    assert post(api, "canary", {"weight": 101}, 422)["status"] == 422
    assert "very revision that serves" in post(api, "canary", {"env": {"A": "1"}, "weight": 10}, 409)["detail"]
    assert "canary" not in api.client.get("/resources/services/one").json()["spec"]
    missing = api.client.post("/services/two/canary", json={"weight": 1})
    assert missing.status_code == 404


def test_a_rollback_needs_a_revision(api: Api) -> None:
    uid = made(api)["metadata"]["uid"]
    assert "one revision only" in post(api, "rollback", {}, 409)["detail"]
    assert "no revision 7" in post(api, "rollback", {"to": "7"}, 404)["detail"]
    old = {"processor": "command", "command": "before", "replicas": 9}
    with api.context.engine.begin() as connection:
        revisions.record(connection, uid, "aaaaaaaaaaaa", old, {"instance_type": "local.tiny"})
    back = post(api, "rollback", {"to": "1"})
    assert (back["spec"]["command"], back["spec"]["replicas"]) == ("before", 1)
    (listed,) = api.client.get("/services/one/revisions").json()["items"]
    assert (listed["number"], listed["what"]) == (1, {"processor": "command", "command": "before"})
    assert post(api, "resume", {})["metadata"]["generation"] == back["metadata"]["generation"]


def test_revisions_are_numbered_once_and_the_oldest_go(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = made(api)["metadata"]["uid"]
    monkeypatch.setattr(revisions, "MOST", 3)
    with api.context.engine.begin() as connection:
        for name in ("a", "b", "a", "c", "d", "123"):
            revisions.record(connection, uid, name, {}, {})
        assert revisions.numbers(connection, [uid]) == {uid: {"c": 3, "d": 4, "123": 5}}
        by_number, by_name = revisions.find(connection, uid, "4"), revisions.find(connection, uid, "123")
        assert by_number is not None
        assert by_name is not None
        assert (by_number.revision, by_name.number) == ("d", 5)
        assert revisions.find(connection, uid, "a") is None
