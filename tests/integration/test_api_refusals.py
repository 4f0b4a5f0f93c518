"""What the API refuses: keys, malformed requests. Each answer is a problem that names the field; nothing is stored."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from tests.api_server import Api, serving

from modelworks.api.auth import ensure_local_key
from modelworks.db.tables import events, resources, secrets
from modelworks.home import Home

PROBLEM = "application/problem+json"


@pytest.fixture
def api(home: Home, database_url: str) -> Iterator[Api]:
    with serving(home, database_url) as served:
        yield served


def manifest(kind: str, spec: Any, name: Any = "x", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec, **more}


BAD_MANIFESTS: list[tuple[Any, str]] = [
    ({}, "kind"),
    ({"kind": "Bucket"}, "metadata"),
    (manifest("Bucket", {}, name="UPPER"), "metadata.name"),
    (manifest("Bucket", {}, name="a/b"), "metadata.name"),
    (manifest("Bucket", {}, name=""), "metadata.name"),
    (manifest("Bucket", {}, name="ab"), "metadata.name"),
    (manifest("Bucket", {}, name="10.0.0.1"), "metadata.name"),
    (manifest("Bucket", {}, name="mw-other"), "metadata.name"),
    (manifest("Bucket", {}, name=5), "metadata.name"),
    (manifest("Bucket", {"size": 1}), "spec.size"),
    (manifest("Bucket", []), "spec"),
    (manifest("Bucket", {}, extra=1), "extra"),
    (manifest("Bucket", {}, apiVersion="v2"), "apiVersion"),
    (manifest("Nonsense", {}), "kind"),
    ({"kind": "Bucket", "metadata": {"name": "abc", "labels": {"a b": "c"}}}, "metadata.labels"),
    ({"kind": "Bucket", "metadata": {"name": "abc", "workspace": "A"}}, "metadata.workspace"),
    ({"kind": "Bucket", "metadata": {"name": "abc", "workspace": "a" * 61}}, "metadata.workspace"),
    ({"kind": "Bucket", "metadata": {"name": "abc", "workspace": "a.b"}}, "metadata.workspace"),
    (manifest("K" * 1000, {}), "kind"),
    ({"kind": "Bucket", "metadata": {"name": "abc", "workspace": 7}}, "metadata.workspace"),
    (manifest("Volume", {"size": "ten"}), "spec.size"),
    (manifest("Volume", {"size": 1e300}), "spec.size"),
    (manifest("Volume", {"size": 1}), "spec.size"),
    (manifest("Volume", {"path": "relative"}), "spec.path"),
    (manifest("Volume", {"path": "/etc"}), "spec.path"),
    (manifest("Volume", {"path": "/"}), "spec.path"),
    (manifest("Volume", {"path": "/a/../etc"}), "spec.path"),
    (manifest("Volume", {"shared": "perhaps"}), "spec.shared"),
    (manifest("Environment", {"requirements": ["a\nb"]}), "spec.requirements.0"),
    (manifest("Environment", {"requirements": "numpy"}), "spec.requirements"),
    (manifest("Environment", {"python": "two"}), "spec.python"),
    (manifest("InstanceType", {"cpu": 1}), "spec.price_per_hour"),
    (manifest("InstanceType", {"cpu": -1, "price_per_hour": 1}), "spec.cpu"),
    (manifest("InstanceType", {"gpu": 65, "price_per_hour": 1}), "spec.gpu"),
    (manifest("InstanceType", {"price_per_hour": -1}), "spec.price_per_hour"),
    (manifest("InstanceType", {"memory": "999999999999999999E", "price_per_hour": 1}), "spec.memory"),
    (manifest("InstanceType", {"cpu": "999999999999999999", "price_per_hour": 1}), "spec.cpu"),
    (manifest("InstanceType", {"gpu_memory": "999999999999999999E", "price_per_hour": 1}), "spec.gpu_memory"),
    (manifest("Environment", {"requirements": ["-r /etc/shadow"]}), "spec.requirements.0"),
    (manifest("Model", {"aliases": {"prod": 1}}), "spec.aliases.prod"),
    (manifest("Model", {"aliases": {"1": 1}}), "spec.aliases"),
    (manifest("Model", {"aliases": {"prod": 2**40}}), "spec.aliases.prod"),
    (manifest("TrainingJob", {}), "spec.command"),
    (manifest("TrainingJob", {"command": "x", "time_limit": "999999999999999999d"}), "spec.time_limit"),
    (manifest("TrainingJob", {"command": "x", "inputs": {"../x": "s3://abc/"}}), "spec.inputs"),
    (manifest("TrainingJob", {"command": "x", "resources": {"memory": "9999999999E"}}), "spec.resources.memory"),
    (manifest("TrainingJob", {"command": "x", "instance_type": "local.smal"}), "spec.instance_type"),
    (manifest("TrainingJob", {"command": "x", "environment": "python-dta"}), "spec.environment"),
    (manifest("TrainingJob", {"command": "x", "volumes": [{"name": "no", "mount_path": "/mnt/a"}]}), "spec.volumes"),
    (manifest("TrainingJob", {"command": "x", "inputs": {"data": "/local"}}), "spec.inputs.data"),
    (manifest("Service", {"processor": "onnx", "model": "none:1"}), "spec.model"),
    (manifest("Service", {"processor": "onnx", "model": "none:zero"}), "spec.model"),
    ("text", "manifests.0"),
    (None, "manifests.0"),
]


def test_malformed_manifests_name_the_field_and_store_nothing(api: Api) -> None:
    for bad, path in BAD_MANIFESTS:
        answer = api.client.post("/apply", json={"manifests": [bad]})
        told = f"{json.dumps(bad)} → {answer.status_code} {answer.text}"
        assert answer.status_code == 422, told
        assert answer.headers["content-type"] == PROBLEM, told
        assert any(error["path"].startswith(path) for error in answer.json()["errors"]), told
    assert _stored(api) == 0


def test_of_several_documents_all_or_none_is_stored_and_the_wrong_one_is_named(api: Api) -> None:
    good = manifest("Environment", {}, name="good")
    answer = api.client.post("/apply", json={"manifests": [good, manifest("Volume", {"size": "ten"})]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "manifests.1.spec.size"
    assert _stored(api) == 0


def test_near_matches_are_told(api: Api) -> None:
    spec = {"command": "x", "instance_type": "local.smal"}
    answer = api.client.post("/apply", json={"manifests": [manifest("TrainingJob", spec)]})
    assert "local.small" in answer.json()["errors"][0]["message"]


BAD_BODIES: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"{'a': 1}",
    b'{"manifests": NaN}',
    b'{"manifests": [], "manifests": []}',
    b'{"manifests": [{"kind": "Bucket", "metadata": {"name": "abc"}, "spec": {"n": 1' + b"0" * 400 + b"}}]}",
    b'{"manifests": [{"kind": "Bucket", "metadata": {"name": "abc"}, "spec": {"n": 1e999}}]}',
    b'{"manifests": [{"kind": "Bucket\\u0000", "metadata": {"name": "abc"}}]}',
    b'{"manifests": [{"kind": "\\ud800", "metadata": {"name": "abc"}}]}',
    b'{"manifests": [{"kind": "\xff"}]}',
    b"[" * 100_000,
    b'{"manifests": ' + b"[" * 70 + b"]" * 70 + b"}",
    b"\x00\x01\x02",
    b'{"manifests": []}',
    b'{"manifests": [{}], "dry_run": "maybe"}',
    b'{"manifests": [{}], "unknown": 1}',
]


def test_bodies_that_are_not_quite_json_are_refused(api: Api) -> None:
    for body in BAD_BODIES:
        answer = api.client.post("/apply", content=body, headers={"Content-Type": "application/json"})
        told = f"{body[:80]!r} → {answer.status_code} {answer.text[:300]}"
        assert 400 <= answer.status_code < 500, told
        assert answer.headers["content-type"] == PROBLEM, told
    assert _stored(api) == 0


def test_a_large_body_is_refused_before_it_is_read(api: Api) -> None:
    answer = api.client.post("/apply", content=b" " * (4 * 1024**2 + 1), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(65):
            yield b" " * 65536

    answer = api.client.post("/apply", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_bad_queries_and_paths_are_problems(api: Api) -> None:
    targets = [
        "/resources/env?limit=0",
        "/resources/env?limit=many",
        "/resources/env?limit=" + "9" * 5000,
        "/resources/env?label=novalue",
        "/resources/env?cursor=%FF",
        "/resources/env?cursor=abc",
        "/resources/env?label=a%00=b",
        "/resources/env?workspace=UPPER",
        "/resources/env?workspace=" + "a" * 61,
        "/status/",
        "/resources/env/%00",
        "/resources/env/%FF",
        "/resources/env/" + "a" * 300,
        "/resources/nothing",
        "/events?since=-1",
        "/events?since=" + "9" * 40,
        "/events?wait=inf",
        "/events?wait=nan",
        "/watch?timeout=-1",
        "/cost?since=0001-01-01T00:00:00%2B14:00",
        "/cost?since=tomorrow",
        "/cost?since=2026-02-01&until=2026-01-01",
        "/cost?by=moon",
        "/models/x/versions/0",
        "/models/x/versions/99999999999999999999",
        "/models/x/versions",
        "/nowhere",
    ]
    for target in targets:
        answer = api.client.get(target)
        told = f"{target[:80]} → {answer.status_code} {answer.text[:300]}"
        assert 400 <= answer.status_code < 500, told
        assert answer.headers["content-type"] == PROBLEM, told
        assert answer.json()["status"] == answer.status_code
    wrong = api.client.patch("/apply")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert wrong.headers["content-type"] == PROBLEM


def test_without_a_key_only_health_answers(api: Api) -> None:
    with api.with_key(None) as stranger, api.with_key("mw_" + "x" * 43) as guesser:
        assert stranger.get("/healthz").status_code == 200
        for client in (stranger, guesser):
            answer = client.get("/status")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == PROBLEM
            assert client.post("/apply", content=b"{").status_code in (401, 422)
        basic = {"Authorization": "Basic bXc6bXc="}
        assert stranger.get("/status", headers=basic).status_code == 401


def _make(client: httpx.Client, **body: Any) -> str:
    answer = client.post("/keys", json=body)
    assert answer.status_code == 201, answer.text
    key: str = answer.json()["key"]
    return key


def test_a_read_only_key_only_reads(api: Api) -> None:
    with api.with_key(_make(api.client, name="viewer", read_only=True)) as viewer:
        assert viewer.get("/whoami").json() == {"name": "viewer", "workspace": None, "read_only": True}
        assert viewer.get("/resources/env").status_code == 200
        for answer in (
            viewer.post("/apply", json={"manifests": [manifest("Environment", {})]}),
            viewer.delete("/resources/env/x"),
            viewer.post("/storage/credentials", json={"read": ["s3://abc/"]}),
            viewer.get("/keys"),
        ):
            assert answer.status_code == 403, answer.text
            assert answer.json()["code"] == "forbidden"


def test_a_bound_key_is_refused_in_other_workspaces(api: Api) -> None:
    with api.with_key(_make(api.client, name="team", workspace="vision")) as team:
        assert team.get("/resources/env").status_code == 200  # its own, unasked
        assert team.get("/resources/env", params={"workspace": "default"}).status_code == 403
        made = team.post("/apply", json={"manifests": [manifest("Environment", {})]})
        assert made.json()["results"][0]["resource"]["metadata"]["workspace"] == "vision"
        elsewhere = {"kind": "Environment", "metadata": {"name": "x", "workspace": "default"}, "spec": {}}
        assert team.post("/apply", json={"manifests": [elsewhere]}).status_code == 403
        foreign = team.post("/storage/credentials", json={"read": ["s3://mw-default/"]})
        assert foreign.status_code == 403
        assert team.post("/keys", json={"name": "another"}).status_code == 403


def _apply(client: httpx.Client, *manifests: dict[str, Any]) -> httpx.Response:
    return client.post("/apply", json={"manifests": list(manifests)})


def test_a_bound_keys_workloads_reach_no_other_buckets(api: Api) -> None:
    """What the key itself may not read, its jobs and services may not read for it."""
    assert _apply(api.client, manifest("Bucket", {}, name="payroll")).status_code == 200
    job, model = {"command": "true"}, {"processor": "onnx"}
    with api.with_key(_make(api.client, name="team", workspace="vision")) as team:
        assert _apply(team, manifest("Bucket", {}, name="pictures")).status_code == 200
        for bucket in ("payroll", "mw-default", "nobodys"):
            uri = f"s3://{bucket}/a/"
            for kind, spec, path in (
                ("TrainingJob", job | {"inputs": {"data": uri}}, "spec.inputs.data"),
                ("TrainingJob", job | {"output": uri}, "spec.output"),
                ("TrainingJob", job | {"code": uri}, "spec.code"),
                ("Service", model | {"model": uri}, "spec.model"),
            ):
                answer = _apply(team, manifest(kind, spec, name="x1"))
                assert answer.status_code == 403, answer.text
                assert answer.json()["errors"][0]["path"] == path
            answer = team.post("/jobs/validate", json=manifest("TrainingJob", job | {"inputs": {"data": uri}}))
            assert answer.status_code == 403
            assert team.post("/models/m/versions", json={"uri": uri}).status_code == 403
        own = job | {"inputs": {"data": "s3://pictures/a/"}, "output": "s3://mw-vision/b/"}
        assert _apply(team, manifest("TrainingJob", own)).status_code == 200


def test_versions_of_models_are_not_written_by_anybody(api: Api) -> None:
    for place in ("", "models", "models/", "models/digits/0123/", "models/x"):
        uri = f"s3://mw-default/{place}"
        answer = api.client.post("/storage/credentials", json={"write": ["s3://mw-default/code/", uri]})
        assert answer.status_code == 403, uri
        assert answer.json()["errors"][0]["path"] == "write.1"
        answer = _apply(api.client, manifest("TrainingJob", {"command": "true", "output": uri}))
        assert answer.status_code == 403, uri
        assert answer.json()["errors"][0]["path"] == "spec.output"
    for name, uri in (("a", "s3://mw-default/modelshop/"), ("b", "s3://mw-default/code/models/")):
        assert _apply(api.client, manifest("TrainingJob", {"command": "true", "output": uri}, name)).status_code == 200


def test_a_directory_of_the_node_is_an_administrators_to_give(api: Api, home: Home, tmp_path: Path) -> None:
    given = manifest("Volume", {"path": str(tmp_path)}, name="shared")
    with api.with_key(_make(api.client, name="team", workspace="vision")) as team:
        answer = _apply(team, given)
        assert answer.status_code == 403
        assert answer.json()["errors"][0]["path"] == "spec.path"
        assert _apply(team, manifest("Volume", {"size": "1Gi"}, name="own")).status_code == 200
    assert _apply(api.client, given).status_code == 200
    for own in (home.root, home.secrets, home.root.parent, home.run, Path("/var/run"), Path("/")):
        answer = _apply(api.client, manifest("Volume", {"path": str(own)}, name="never"))
        assert answer.status_code == 422, own
        assert answer.json()["errors"][0]["path"] == "spec.path"


def test_a_read_only_key_sees_no_token(api: Api) -> None:
    service = {"processor": "command", "command": "true", "replicas": 0}
    assert _apply(api.client, manifest("Service", service, name="web")).status_code == 200
    assert api.client.get("/services/web/token").status_code == 200
    with api.with_key(_make(api.client, name="viewer", read_only=True)) as viewer:
        assert viewer.get("/resources/service/web").status_code == 200
        assert viewer.get("/services/web/token").status_code == 403


def test_tokens_that_were_kept_for_a_while_are_dropped_when_they_ended(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = {"processor": "command", "command": "true", "replicas": 0}
    _apply(api.client, manifest("Service", service, name="web"))
    now = time.time()
    monkeypatch.setattr("modelworks.products.serving.routes.time.time", lambda: now)
    texts = {api.client.get("/services/web/token").json()["token"]}
    for later in (0, 30, 90):
        now += later
        texts.add(api.client.post("/services/web/token/rotate", params={"keep": "1m"}).json()["token"])
    assert len(texts) == 4
    with api.context.engine.connect() as connection:
        names = sorted(connection.scalars(select(secrets.c.name)))
    assert names == ["token", f"until-{round(now + 60)}"]


def test_a_revoked_key_ends_at_once_and_its_name_is_free(api: Api) -> None:
    first = _make(api.client, name="ci")
    assert api.client.post("/keys", json={"name": "ci"}).status_code == 409
    with api.with_key(first) as ci:
        assert ci.get("/whoami").status_code == 200
        assert api.client.delete("/keys/ci").status_code == 204
        assert ci.get("/whoami").status_code == 401
    assert [key["name"] for key in api.client.get("/keys").json()["items"]] == ["local"]
    assert _make(api.client, name="ci") != first
    assert api.client.delete("/keys/never").status_code == 404
    assert api.client.delete("/keys/local").status_code == 409


def test_the_local_key_is_made_once_and_only_its_owner_reads_it(api: Api, home: Home) -> None:
    path = home.secrets / "local.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_local_key(home, api.context.engine) == path.read_text().strip()
    path.unlink()
    replaced = ensure_local_key(home, api.context.engine)
    with api.with_key(replaced) as client:
        assert client.get("/whoami").json()["name"] == "local"


def _stored(api: Api) -> int:
    with api.context.engine.connect() as connection:
        rows = connection.scalar(select(func.count()).select_from(resources)) or 0
        return rows + (connection.scalar(select(func.count()).select_from(events)) or 0)
