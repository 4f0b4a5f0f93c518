"""`mw service update|rollback|revisions` and the cloud's verbs, against a stand-in for the platform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.stub_api import StubApi

from modelworks.cli.app import run
from modelworks.kernel.errors import Invalid
from modelworks.products.serving.spec import ServiceSpec
from modelworks.sdk import changes, context

SPEC: dict[str, Any] = {"processor": "onnx", "model": "digits:1", "replicas": 2}
REVISION = {
    "revision": "0123456789ab",
    "number": 2,
    "created_at": "2026-11-22T00:00:00Z",
    "what": {"processor": "onnx", "model": "digits:2"},
    "current": True,
    "canary": False,
    "serves": True,
    "reversed": None,
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> StubApi:
    stub = StubApi()
    monkeypatch.setattr(context, "connect", lambda *_, workspace="default": stub.client(workspace))
    monkeypatch.setenv("COLUMNS", "120")
    service = stub.add("Service", "digits", spec=dict(SPEC))
    for verb in ("canary", "rollback", "resume"):
        stub.routes[f"POST /services/digits/{verb}"] = httpx.Response(202, json=service)
    stub.routes["GET /services/digits/revisions"] = {"items": [REVISION]}
    return stub


def applied(api: StubApi) -> dict[str, Any]:
    (manifest,) = api.bodies("/apply")[-1]["manifests"]
    return dict(manifest["spec"])


@pytest.mark.parametrize("group", ["service", "eas"])
def test_a_canary_is_its_own_call(api: StubApi, capsys: pytest.CaptureFixture[str], group: str) -> None:
    assert run([group, "update", "digits", "--canary-model", "digits:2", "--canary-weight", "10"]) == 0
    assert api.bodies("/services/digits/canary") == [{"model": "digits:2", "weight": 10}]
    assert capsys.readouterr().out == "Service/digits canary updated\n"
    assert run([group, "update", "digits", "--canary-weight", "100"]) == 0
    assert capsys.readouterr().out == "Service/digits canary is promoted\n"
    assert api.bodies("/apply") == []


def test_fields_of_its_own(api: StubApi) -> None:
    assert run(["service", "update", "digits", "--model", "digits:3", "--replicas", "5"]) == 0
    assert applied(api) == {**SPEC, "model": "digits:3", "replicas": 5}
    assert run(["service", "update", "digits", "--min", "2", "--max", "6"]) == 0
    assert applied(api)["autoscaling"] == {"min": 2, "max": 6}


def test_nothing_to_change_is_an_error(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["service", "update", "digits"]) == 2
    assert "what should be changed?" in capsys.readouterr().err


def test_back_to_another_revision(api: StubApi) -> None:
    assert run(["service", "rollback", "digits"]) == 0
    assert run(["service", "rollback", "digits", "--to", "1"]) == 0
    assert run(["eas", "version", "digits", "3"]) == 0
    assert api.bodies("/services/digits/rollback") == [{}, {"to": "1"}, {"to": "3"}]


def test_revisions_are_a_table(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["service", "revisions", "digits"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split()[:4] == ["2", "0123456789ab", "current,", "serves"]
    assert line.endswith("processor=onnx model=digits:2")
    assert run(["service", "revisions", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"items": [REVISION]}


def test_the_last_lines_of_a_log(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /services/digits/log"] = httpx.Response(200, content=b"one\ntwo\nthree\n")
    assert run(["eas", "logs", "digits", "--tail", "2"]) == 0
    assert capsys.readouterr().out == "two\nthree\n"
    assert run(["service", "log", "digits", "--tail", "0"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verb", ["ls", "list-services"])
def test_the_clouds_verbs_list(api: StubApi, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert run(["eas", verb]) == 0
    assert "digits" in capsys.readouterr().out


def test_create_and_modify_from_service_json(api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "service.json"
    file.write_text(json.dumps({"name": "digits", "token": "x", "processor": "onnx", "model_path": "oss://b/m/"}))
    assert run(["eas", "create", str(file)]) == 0
    assert applied(api) == {"processor": "onnx", "model": "oss://b/m/"}
    assert "note: token has no effect here" in capsys.readouterr().err
    file.write_text(json.dumps({"metadata": {"instance": 3, "rpc": {"max_queue_size": 9}}}))
    assert run(["eas", "modify", "digits", "-s", str(file)]) == 0
    assert applied(api)["queue"] == {"size": 9}
    assert applied(api)["replicas"] == 3
    file.write_text(json.dumps({"name": "other", "processor": "onnx"}))
    assert run(["eas", "modify", "digits", "-s", str(file)]) == 2
    assert "is about other, not about digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "given", "made"),
    [
        ({"autoscaling": {"min": 1, "max": 3}}, {"least": 5}, {"autoscaling": {"min": 5, "max": 5}}),
        ({"autoscaling": {"min": 2, "max": 3}}, {"most": 1}, {"autoscaling": {"min": 1, "max": 1}}),
        (
            {"autoscaling": {"min": 1, "max": 9, "initial": 8, "prewarm": 4}},
            {"most": 3},
            {"autoscaling": {"min": 1, "max": 3, "initial": 3, "prewarm": 3}},
        ),
        (
            {"processor": "vllm", "model": "m"},
            {"image": "a/b:1"},
            {"processor": "vllm", "model": "m", "image": "a/b:1"},
        ),
        (
            {"processor": "command", "command": "x", "environment": "default"},
            {"image": "registry.example/x:1"},
            {"processor": "image", "command": "x", "image": "registry.example/x:1"},
        ),
    ],
)
def test_what_a_change_makes_of_a_spec(spec: dict[str, Any], given: dict[str, Any], made: dict[str, Any]) -> None:
    assert changes.with_fields(spec, **given) == made


def test_a_number_of_replicas_is_refused_where_autoscaling_chooses_it() -> None:
    with pytest.raises(Invalid, match="autoscaling"):
        changes.with_fields({"autoscaling": {"max": 3}}, replicas=2)


def test_merging_takes_one_of_two_and_drops_what_was_another_processors() -> None:
    spec = {"processor": "command", "command": "x", "instance_type": "local.small", "queue": {"size": 1, "timeout": 5}}
    new = {"processor": "onnx", "model": "m:1", "resources": {"cpu": 1}, "queue": {"size": 2}}
    made = changes.merged(spec, new)
    assert made == {"processor": "onnx", "model": "m:1", "resources": {"cpu": 1}, "queue": {"size": 2, "timeout": 5}}
    ServiceSpec.parse(made, at="spec")
