"""Nodes, quotas and the queue over HTTP, with admission on the real tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import Connection, text
from tests.api_server import Api, serving

from modelworks.control.scheduler import admit
from modelworks.db import claims, nodes, resources
from modelworks.home import Home
from modelworks.kernel.decision import Claim
from modelworks.kernel.resource import Ref, Resource
from modelworks.kernel.run import NodeObservation, Resources
from modelworks.products.kind import ClaimView


@pytest.fixture
def api(home: Home, database_url: str) -> Iterator[Api]:
    with serving(home, database_url) as one:
        with one.context.engine.begin() as connection:
            say(connection)
        yield one


def say(connection: Connection, **more: object) -> None:
    """What node a says of itself."""
    capacity = Resources.parse({"cpu": 4, "memory": "16Gi"})
    nodes.put(connection, NodeObservation(name="a", capacity=capacity, **more))


def want(
    api: Api, name: str, count: int = 1, workspace: str = "default", price: float = 1.0, **more: object
) -> Resource:
    with api.context.engine.begin() as connection:
        made = resources.insert_new(connection, Ref(workspace, "TrainingJob", name), {"command": "true"}, {}, {})
        assert made is not None
        shape = Resources.parse({"cpu": 1, "memory": "1Gi"})
        wishes = [Claim(f"{made.uid}/a1/{n}/0", "a1", shape, "local.small", price, **more) for n in range(count)]
        claims.reserve(connection, made.uid, wishes)
    return made


def seen(api: Api, made: Resource) -> list[ClaimView]:
    with api.context.engine.connect() as connection:
        return claims.of(connection, [made.uid]).get(made.uid, [])


def where(api: Api, made: Resource) -> list[str | None]:
    return [claim.node for claim in seen(api, made)]


def key(api: Api, workspace: str) -> httpx.Client:
    answer = api.client.post("/keys", json={"name": f"of-{workspace}", "workspace": workspace})
    return api.with_key(answer.json()["key"])


QUOTA = {"kind": "Quota", "metadata": {"name": "q"}, "spec": {"instances": {"local.small": 2}}}


def test_a_quota_holds_back_what_is_beyond_it_until_it_is_lifted(api: Api) -> None:
    api.apply(QUOTA)
    first, second = want(api, "first", 2), want(api, "second")
    admit(api.context.engine)
    assert (where(api, first), where(api, second)) == (["a", "a"], [None])
    said = seen(api, second)[0].reason
    assert said.startswith("waits for the quota q of workspace default: needs 1 × local.small, 2 × local.small of 2")
    (quota,) = api.client.get("/quotas").json()["items"]
    assert quota["limits"] == [
        {"limit": "instance:local.small", "used": 2, "most": 2, "text": "2 × local.small of 2 × local.small"}
    ]
    assert api.client.delete("/resources/quota/q").status_code == 202
    admit(api.context.engine)
    assert where(api, second) == ["a"]


def test_money_that_is_spent_holds_jobs_back(api: Api) -> None:
    api.apply({**QUOTA, "spec": {"spend": {"amount": 0.5, "per": "day"}}})
    want(api, "rich", price=3.6e6)  # a thousand a second
    admit(api.context.engine)
    late = want(api, "late")
    admit(api.context.engine)
    assert "the quota q is spent: " in seen(api, late)[0].reason
    (quota,) = api.client.get("/quotas").json()["items"]
    assert quota["spend"]["spent"] >= 0.5


def test_only_keys_of_all_workspaces_write_quotas_and_change_nodes(api: Api) -> None:
    client = key(api, "vision")
    manifest = {**QUOTA, "metadata": {"name": "q", "workspace": "vision"}}
    refused = client.post("/apply", json={"manifests": [manifest]})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "may not change a Quota" in refused.json()["detail"]
    api.apply(manifest)
    assert client.delete("/resources/quota/q").status_code == 403
    assert [quota["name"] for quota in client.get("/quotas").json()["items"]] == ["q"]
    for verb in ("cordon", "uncordon", "drain"):
        assert client.post(f"/nodes/a/{verb}", json={}).status_code == 403


def test_a_higher_priority_has_a_lower_one_end_and_says_so(api: Api) -> None:
    low = want(api, "low", 4, preemptible=True, notice=7.0)
    admit(api.context.engine)
    high = want(api, "high", priority=5)
    admit(api.context.engine)
    leaving = seen(api, low)
    assert {claim.evict_reason for claim in leaving} == {"preempted for TrainingJob high of priority 5"}
    at = leaving[0].evict_at
    assert at is not None
    assert 0 < at - datetime.now(UTC).timestamp() <= 7
    assert seen(api, high)[0].reason.startswith("waits until TrainingJob low has ended, preempted for it")
    third = want(api, "third", priority=1)
    with api.context.engine.begin() as connection:
        for claim in leaving:
            claims.release(connection, claim.key)
    admit(api.context.engine)
    assert (where(api, high), where(api, third)) == (["a"], ["a"])


def test_a_cordoned_node_keeps_what_it_has_and_gets_nothing_new(api: Api) -> None:
    before = want(api, "before")
    admit(api.context.engine)
    assert api.client.post("/nodes/a/cordon").json()["cordoned"] is True
    after = want(api, "after")
    admit(api.context.engine)
    assert where(api, before) == ["a"]
    assert seen(api, after)[0].reason == "node a is cordoned"
    assert api.client.post("/nodes/a/uncordon").json()["cordoned"] is False
    admit(api.context.engine)
    assert where(api, after) == ["a"]


def test_a_drained_node_tells_jobs_and_services_to_leave(api: Api) -> None:
    job, service = want(api, "job"), want(api, "service", lasting=True)
    admit(api.context.engine)
    answer = api.client.post("/nodes/a/drain", json={"notice": "30s", "reason": "a new disk"})
    assert answer.status_code == 202
    assert not admit(api.context.engine)
    (claim,) = seen(api, job)
    assert claim.evict_reason == "node a is drained: a new disk"
    assert seen(api, service)[0].evict_reason == "node a is drained: a new disk"
    node = api.client.get("/nodes/a").json()
    assert {w["name"]: w["leaves_by"] is not None for w in node["workloads"]} == {"job": True, "service": True}
    assert (node["used_cpu"], node["claims"], node["drain_reason"]) == (2.0, 2, "a new disk")


def test_a_machines_own_notice_drains_it_once(api: Api) -> None:
    engine, soon = api.context.engine, (datetime.now(UTC) + timedelta(seconds=90)).timestamp()
    job = want(api, "job", notice=5.0)
    admit(engine)
    with engine.begin() as connection:
        say(connection, notice_at=soon, notice="spot")
    admit(engine)
    assert seen(api, job)[0].evict_at == pytest.approx(soon, abs=1)
    assert api.client.get("/nodes").json()["items"][0]["drain_reason"] == "notice: spot"
    api.client.post("/nodes/a/uncordon")
    with engine.begin() as connection:
        say(connection, notice_at=soon, notice="spot")
    assert api.client.get("/nodes/a").json()["cordoned"] is False
    with engine.begin() as connection:
        say(connection, notice_at=soon + 60, notice="spot")
    assert api.client.get("/nodes/a").json()["cordoned"] is True
    with engine.begin() as connection:
        say(connection)  # another machine of that name
    assert api.client.get("/nodes/a").json()["cordoned"] is False


def test_the_queue_is_told_in_its_order(api: Api) -> None:
    for name, priority, workspace in (("a", 0, "default"), ("b", 5, "default"), ("c", 0, "vision")):
        want(api, name, 5, priority=priority, workspace=workspace)
    admit(api.context.engine)
    answer = api.client.get("/queue").json()
    assert answer["length"] == 3
    told = [(e["position"], e["name"], e["priority"], e["replicas"], e["behind"]) for e in answer["items"]]
    assert told == [(1, "b", 5, 5, None), (2, "a", 0, 5, "TrainingJob b")]
    (other,) = key(api, "vision").get("/queue").json()["items"]
    assert (other["position"], other["behind"]) == (3, "another workspace's")
    assert other["reason"].startswith("larger than all nodes together")


def test_what_is_not_there_is_said(api: Api) -> None:
    for path in ("/nodes/b", "/nodes/b/cordon"):
        answer = api.client.get(path) if path == "/nodes/b" else api.client.post(path)
        assert (answer.status_code, answer.json()["detail"]) == (404, "there is no node b")
    wrong = api.client.post("/apply", json={"manifests": [{**QUOTA, "spec": {}}]})
    assert "limit something" in wrong.text


def test_a_quota_that_cannot_be_read_holds_back_its_own_workspace_alone(api: Api) -> None:
    api.apply(QUOTA)
    with api.context.engine.begin() as connection:
        connection.execute(text("UPDATE resources SET spec = spec || '{\"colour\": 1}' WHERE kind = 'Quota'"))
    mine, others = want(api, "mine"), want(api, "others", workspace="vision")
    admit(api.context.engine)
    assert (where(api, mine), where(api, others)) == ([None], ["a"])
    assert seen(api, mine)[0].reason == "waits for the quota q, which this release cannot read: apply it anew"
    assert api.client.get("/quotas").json()["items"] == []
    api.apply(QUOTA)
    admit(api.context.engine)
    assert where(api, mine) == ["a"]


def test_an_mpi_job_is_told_of_nodes_without_mpirun_when_it_is_submitted(api: Api) -> None:
    def notes(**spec: object) -> list[str]:
        body = {"kind": "TrainingJob", "metadata": {"name": "ring"}, "spec": {"command": "mpirun ./ring", **spec}}
        answer = api.client.post("/jobs/validate", json=body)
        assert answer.status_code == 200, answer.text
        return [note for note in answer.json()["notes"] if "mpirun" in note]

    assert notes(framework="mpi") == []  # a node of an earlier release does not tell
    with api.context.engine.begin() as connection:
        say(connection, labels={"mpi": "none"})
    (told,) = notes(framework="mpi")
    assert told.startswith("no node has mpirun, which an MPI job is started by: install OpenMPI on them")
    assert notes() == []
    with api.context.engine.begin() as connection:
        capacity = Resources.parse({"cpu": 4, "memory": "16Gi"})
        nodes.put(connection, NodeObservation(name="b", capacity=capacity, labels={"mpi": "mpirun"}))
    (told,) = notes(framework="mpi")
    assert told.startswith("without mpirun are the nodes a: install OpenMPI there")
    with api.context.engine.begin() as connection:
        say(connection, labels={"mpi": "mpirun"})
    assert notes(framework="mpi") == []
