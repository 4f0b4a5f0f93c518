"""Models, buckets and credentials over a real object store."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.api_server import Api, serving

from modelworks.db.tables import resources
from modelworks.home import Home
from modelworks.kernel.errors import ModelworksError
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.registry.facade import find_version


@pytest.fixture
def api(home: Home, database_url: str, store: Credentials) -> Iterator[Api]:
    with serving(home, database_url, store) as served:
        yield served


@pytest.fixture
def name() -> str:
    """The store is shared by tests; what is in it is not."""
    return f"m{secrets.token_hex(4)}"


def register(api: Api, name: str, **body: Any) -> dict[str, Any]:
    answer = api.client.post(f"/models/{name}/versions", json=body)
    assert answer.status_code == 201, answer.text
    version: dict[str, Any] = answer.json()
    return version


def test_versions_are_copies_that_nobody_changes(api: Api, store: Credentials, bucket: str, name: str) -> None:
    client = ObjectClient(store)
    client.put(ObjectUri(bucket, "model/model.onnx"), b"one")
    client.put(ObjectUri(bucket, "model/metrics.json"), b'{"accuracy": 0.97, "name": "x"}')
    first = register(api, name, uri=f"s3://{bucket}/model/", metrics={"loss": 0.1}, description="first")
    assert (first["version"], first["metrics"]) == (1, {"accuracy": 0.97, "loss": 0.1})
    assert [file["path"] for file in first["files"]] == ["metrics.json", "model.onnx"]
    client.put(ObjectUri(bucket, "model/model.onnx"), b"two")
    assert client.get(ObjectUri.parse(first["uri"] + "model.onnx")) == b"one"
    second = register(api, name, uri=f"s3://{bucket}/model/")
    assert second["version"] == 2
    assert second["digest"] != first["digest"]
    listed = api.client.get(f"/models/{name}/versions", params={"limit": 1}).json()
    assert ([item["version"] for item in listed["items"]], listed["next_cursor"]) == ([2], 2)
    one = register(api, f"{name}-file", uri=f"s3://{bucket}/model/model.onnx")
    assert [file["path"] for file in one["files"]] == ["model.onnx"]
    nothing = api.client.post(f"/models/{name}/versions", json={"uri": f"s3://{bucket}/none/"})
    assert nothing.json()["errors"][0]["path"] == "uri"


def test_numbers_are_given_out_once(api: Api, store: Credentials, bucket: str, name: str) -> None:
    ObjectClient(store).put(ObjectUri(bucket, "m/a"), b"a")
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: register(api, name, uri=f"s3://{bucket}/m/"), range(6)))
    assert sorted(version["version"] for version in made) == [1, 2, 3, 4, 5, 6]
    assert len({version["uri"] for version in made}) == 1  # the same content is kept once


def test_aliases_are_followed_and_seen(api: Api, store: Credentials, bucket: str, name: str) -> None:
    ObjectClient(store).put(ObjectUri(bucket, "m/a"), b"a")
    register(api, name, uri=f"s3://{bucket}/m/")
    register(api, name, uri=f"s3://{bucket}/m/")
    assert api.client.put(f"/models/{name}/aliases/prod", json={"version": 3}).json()["errors"][0]["path"] == "version"
    assert api.client.put(f"/models/{name}/aliases/prod", json={"version": 1}).json()["aliases"] == {"prod": 1}
    with api.context.engine.connect() as connection:
        assert find_version(connection, "default", f"{name}@prod").version == 1
        latest = find_version(connection, "default", name)
        assert latest.version == 2
        assert latest.note is not None
        with pytest.raises(ModelworksError, match="did you mean prod"):
            find_version(connection, "default", f"{name}@prd")
    assert api.client.get(f"/models/{name}/versions/1").json()["aliases"] == ["prod"]
    assert api.client.get(f"/resources/model/{name}").json()["spec"]["aliases"] == {"prod": 1}
    service = {"processor": "onnx", "model": f"{name}@prod"}
    api.apply({"kind": "Service", "metadata": {"name": "s"}, "spec": service})
    refused = api.client.delete(f"/resources/model/{name}")
    assert refused.status_code == 409
    assert "serves in s" in refused.json()["detail"]
    # The service goes over to something else; of the revision before, a replica still serves.
    api.apply({"kind": "Service", "metadata": {"name": "s"}, "spec": {"processor": "command", "command": "serve"}})
    older = {"revisions": {"0123456789ab": {"spec": service, "resolved": {}, "slots": []}}}
    with api.context.engine.begin() as connection:
        connection.execute(resources.update().where(resources.c.name == "s").values(status=older))
    assert "serves in s" in api.client.delete(f"/resources/model/{name}").json()["detail"]
    assert api.client.delete(f"/models/{name}/aliases/prod").json()["aliases"] == {}
    assert api.client.delete(f"/models/{name}/aliases/prod").status_code == 404


def test_only_a_job_that_succeeded_is_registered(api: Api, name: str) -> None:
    assert api.client.post(f"/models/{name}/versions", json={"job": "none"}).json()["errors"][0]["path"] == "job"
    api.apply({"kind": "TrainingJob", "metadata": {"name": "waits"}, "spec": {"command": "true"}})
    answer = api.client.post(f"/models/{name}/versions", json={"job": "waits"})
    assert answer.status_code == 409
    assert api.client.post(f"/models/{name}/versions", json={}).status_code == 422


def test_credentials_reach_only_what_they_name(api: Api, store: Credentials, bucket: str) -> None:
    ObjectClient(store).put(ObjectUri(bucket, "in/a"), b"a")
    ObjectClient(store).put(ObjectUri(bucket, "other/a"), b"a")
    body = {"read": [f"s3://{bucket}/in/"], "write": ["s3://mw-default/up/"], "duration": "20m"}
    answer = api.client.post("/storage/credentials", json=body)
    assert answer.status_code == 200, answer.text
    scoped = ObjectClient(Credentials.parse(answer.json()))
    assert scoped.get(ObjectUri(bucket, "in/a")) == b"a"
    scoped.put(ObjectUri("mw-default", "up/b"), b"b")  # the workspace's own bucket was made
    for uri in (ObjectUri(bucket, "other/a"), ObjectUri("mw-default", "elsewhere")):
        with pytest.raises(ModelworksError):
            scoped.get(uri)
    for wrong in ({}, {"read": ["/local"]}, {"read": ["s3://b/../c"]}, {"read": [f"s3://{bucket}/*"]}):
        assert api.client.post("/storage/credentials", json=wrong).status_code == 422
