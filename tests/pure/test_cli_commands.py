"""What `mw` sends and prints, against a stand-in for the platform."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.stub_api import StubApi

from modelworks.cli.app import COMMANDS, load, run
from modelworks.kernel.errors import Conflict, FieldError, Invalid, LimitExceeded, Unauthorized
from modelworks.sdk import context


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> StubApi:
    stub = StubApi()
    monkeypatch.setattr(context, "connect", lambda *_, workspace="default": stub.client(workspace))
    monkeypatch.setenv("COLUMNS", "80")
    return stub


def manifest(folder: Path, text: str, name: str = "job.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


JOB = "kind: TrainingJob\nmetadata: {name: digits}\nspec: {command: python train.py}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_its_help_is_told_beforehand(name: str) -> None:
    command = load(name)
    assert command is not None
    if hasattr(command, "commands"):  # a group tells the same help in both places
        assert command.help == COMMANDS[name][2]


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "Exit codes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["jbo"], "No such command"),
        (["job", "lst"], "No such command"),
        (["get"], "Missing argument"),
        (["cost", "--by", "week"], "week"),
        (["job", "list", "--nope"], "No such option"),
        (["delete", "job"], "what should be deleted"),
        (["model", "register", "digits"], "either --job or --uri"),
        (["apply", "-f", "missing.yaml"], "there is no file missing.yaml"),
        (["bucket", "upload", "missing", "s3://b/"], "no file or folder"),
        (["bucket", "ls", "ftp://x/y"], "ftp"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    api: StubApi, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said.lower() in captured.err.lower()
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(Conflict("busy"), 4), (Unauthorized("who?"), 4), (LimitExceeded("full"), 4), (Invalid("wrong"), 2)],
)
def test_errors_have_their_exit_code(api: StubApi, capsys: pytest.CaptureFixture[str], error: Any, code: int) -> None:
    api.routes["GET /resources/Service"] = httpx.Response(error.status, json=error.problem())
    assert run(["service", "list"]) == code
    assert capsys.readouterr().err.startswith(f"error: {error.detail}\n")


def test_what_is_not_there_is_exit_code_3(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "get", "nope"]) == 3
    assert "nope" in capsys.readouterr().err


def test_no_platform_is_exit_code_5(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MW_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("MW_API", raising=False)
    assert run(["job", "list"]) == 5
    assert "try: start it with `mw up --detach`" in capsys.readouterr().err


def test_apply_says_what_it_did_and_the_second_one_changes_nothing(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(tmp_path, "kind: Bucket\nmetadata: {name: a}\nspec: {}\n---\nkind: Bucket\nmetadata: {name: b}\n"
                              "spec: {}\n")  # fmt: skip
    assert run(["apply", "-f", file]) == 0
    assert capsys.readouterr().out == "Bucket/a created\nBucket/b created\n"
    assert run(["apply", "-f", file]) == 0
    assert capsys.readouterr().out == "Bucket/a unchanged\nBucket/b unchanged\n"


def test_a_wrong_field_is_told_with_file_document_and_path(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = Invalid("1 field is wrong", fields=(FieldError("manifests.1.spec.replicas", "not a number"),))
    api.routes["POST /apply"] = httpx.Response(422, json=error.problem())
    file = manifest(tmp_path, JOB + "---\n" + JOB)
    assert run(["apply", "-f", file]) == 2
    assert f"{file} document 2: spec.replicas: not a number" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["validate", "estimate"])
def test_a_job_is_checked_with_the_code_it_is_submitted_with(api: StubApi, tmp_path: Path, verb: str) -> None:
    (tmp_path / "train.py").write_text("print()")
    api.routes["POST /jobs/validate"] = {"estimate": {"price_per_hour": 1.0}}
    assert run(["job", verb, "-f", manifest(tmp_path, JOB), "--code", str(tmp_path)]) == 0
    (asked,) = api.bodies("/jobs/validate")
    assert asked["spec"]["code"].startswith("s3://mw-default/code/")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "kind: [", "a.yaml:1:"),
        ("a.yaml", "- 1\n", "a mapping"),
        ("a.json", "{", "a.json:1:"),
        ("a.yaml", "", "no manifests"),
    ],
)
def test_broken_files_are_named(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    assert run(["apply", "-f", manifest(tmp_path, text, name)]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_is_applied_in_order_and_json_is_a_manifest_too(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(tmp_path, '{"kind": "Bucket", "metadata": {"name": "two"}, "spec": {}}', "2.json")
    manifest(tmp_path, "kind: Bucket\nmetadata: {name: one}\nspec: {}\n", "1.yaml")
    manifest(tmp_path, "not a manifest", "README.md")
    assert run(["apply", "-f", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Bucket/one created\nBucket/two created\n"


def test_json_output_is_one_document(api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["apply", "-f", manifest(tmp_path, JOB), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["action"] == "created"
    assert run(["get", "jobs", "--json"]) == 0
    assert [item["metadata"]["name"] for item in json.loads(capsys.readouterr().out)["items"]] == ["digits"]


def test_tables_fit_80_columns(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.add("TrainingJob", "a" * 40, phase="Failed", message="the command ended with exit code 1 " * 4)
    assert run(["job", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("kind", ["job", "jobs", "TrainingJob", "trainingjobs"])
def test_kinds_have_short_names(api: StubApi, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    api.add("TrainingJob", "digits")
    assert run(["get", kind]) == 0
    assert "digits" in capsys.readouterr().out


def test_an_unknown_kind_lists_the_kinds(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /kinds"] = {"items": [{"name": "Service", "plural": "services", "short": []}]}
    assert run(["get", "servces"]) == 2
    err = capsys.readouterr().err
    assert "the kinds are Service" in err
    assert "try: mw get Service" in err


def test_workspace_and_region(api: StubApi, tmp_path: Path) -> None:
    assert run(["apply", "-f", manifest(tmp_path, JOB), "-w", "team", "--region", "cn-hangzhou"]) == 0
    assert api.bodies("/apply")[0]["manifests"][0]["metadata"]["workspace"] == "team"
    assert api.requests[0].url.params["workspace"] == "team"


def test_submit_and_follow_prints_the_log_and_the_end(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.add("TrainingJob", "digits", spec={"command": "python train.py"}, phase="Succeeded", attempt=1, message="done")
    api.routes["GET /jobs/digits/log"] = httpx.Response(200, content=b"epoch 1\nepoch 2\n")
    assert run(["job", "submit", "-f", manifest(tmp_path, JOB), "--follow"]) == 0
    out = capsys.readouterr().out
    assert "epoch 1\nepoch 2\n" in out
    assert out.count("epoch 1") == 1
    assert "Succeeded" in out


def test_a_failed_job_is_exit_code_6_with_its_last_lines(
    api: StubApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.add(
        "TrainingJob", "digits", spec={"command": "python train.py"}, phase="Failed", message="exit code 1",
        last_lines=["Traceback", "ValueError: no"],
    )  # fmt: skip
    assert run(["job", "submit", "-f", manifest(tmp_path, JOB), "--wait"]) == 6
    note, error, *lines = capsys.readouterr().err.splitlines()
    assert note.startswith("note: job digits has ended before (Failed) and does not run again")
    assert error == "error: job digits failed: exit code 1"
    assert "  | ValueError: no" in lines


def test_ctrl_c_while_following_detaches(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.add("TrainingJob", "digits", phase="Running", attempt=1)

    def interrupt(request: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    api.routes["GET /jobs/digits/log"] = interrupt
    assert run(["job", "log", "digits", "-f"]) == 130
    assert "mw job log digits -f" in capsys.readouterr().err


def test_delete_says_what_stays(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    gone = {**api.add("TrainingJob", "digits"), "notes": ["volume scratch is attached to nothing now"]}

    def delete(request: httpx.Request) -> httpx.Response:
        del api.store["TrainingJob", "digits"]
        return httpx.Response(202, json=gone)

    api.routes["DELETE /resources/TrainingJob/digits"] = delete
    assert run(["delete", "job", "digits"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "TrainingJob/digits deleted\n"
    assert "volume scratch" in captured.err


@pytest.mark.parametrize("arguments", [["job", "log", "digits"], ["logs", "digits"], ["job", "log", "digits", "-f"]])
def test_a_log_as_json_is_one_document_a_line(
    api: StubApi, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    api.add("TrainingJob", "digits", phase="Succeeded", attempt=1)
    api.routes["GET /jobs/digits/log"] = httpx.Response(200, content="epoch 1 – ok\n\nno end".encode())
    assert run([*arguments, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"line": "epoch 1 – ok"}, {"line": ""}, {"line": "no end"}]


def test_a_models_versions_and_one_by_its_alias(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.add("Model", "digits", spec={"aliases": {"prod": 2}}, phase="Ready")
    version = {
        "version": 2,
        "digest": "sha256:320d3cc5a26401d2febb",
        "size": 2048,
        "metrics": {"accuracy": 0.98},
        "lineage": {"job": {"name": "train"}},
        "aliases": ["prod"],
    }
    api.routes["GET /models/digits/versions"] = {"items": [version]}
    api.routes["GET /models/digits/versions/2"] = version
    assert run(["model", "get", "digits"]) == 0
    table = capsys.readouterr().out
    assert all(text in table for text in ("digits:2", "prod", "2Ki", "320d3cc5a264", "train", "accuracy=0.98"))
    for reference in ("digits:2", "digits@prod"):
        assert run(["model", "get", reference, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == version
    assert run(["model", "get", "digits@dev"]) == 3
    assert "no alias 'dev'" in capsys.readouterr().err


def test_delete_of_nothing_may_be_ignored(api: StubApi) -> None:
    assert run(["delete", "job", "nope"]) == 3
    assert run(["delete", "job", "nope", "--ignore-missing"]) == 0


def test_cost_table(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    item = {"kind": "Service", "name": "digits", "item": "local.small", "unit": "instance", "quantity_hours": 0.5,
            "amount": 0.0125}  # fmt: skip
    api.routes["GET /cost"] = {"items": [item], "total": 0.0125, "currency": "USD"}
    assert run(["cost"]) == 0
    out = capsys.readouterr().out
    assert "Service/digits" in out
    assert "0.0125 USD" in out
    assert "0.5 instance·h" in out


def test_a_token_is_the_only_thing_printed(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /services/digits/token"] = {"token": "abc"}
    assert run(["service", "token", "digits"]) == 0
    assert capsys.readouterr().out == "abc\n"


def test_events(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    event = {
        "seq": 1,
        "at": "2026-01-01T10:11:12Z",
        "kind": "Bucket",
        "name": "b",
        "reason": "Created",
        "message": "made",
    }
    api.routes["GET /events"] = {"items": [event], "cursor": "1"}
    assert run(["events"]) == 0
    assert "10:11:12" in capsys.readouterr().out
    assert run(["events", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cursor"] == "1"


def test_login_keeps_a_key_that_works(
    api: StubApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    api.routes["GET /whoami"] = {"name": "me"}
    monkeypatch.setattr("modelworks.cli.login.Client", lambda *_, **__: api.client())
    assert run(["login", "http://other:8700/", "--key", "secret"]) == 0
    file = tmp_path / "modelworks" / "context.json"
    assert json.loads(file.read_text()) == {"url": "http://other:8700", "api_key": "secret"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(["logout"]) == 0
    assert not file.exists()
    assert run(["login", "other:8700", "--key", "x"]) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"kind: TrainingJob\nkind: Service\n", "job.yaml:2:1: not valid YAML: the key 'kind' is there twice"),
        (b"kind: A\nspec: {env: {A: 1, B: 2, A: 3}}\n", "job.yaml:2:26: not valid YAML: the key 'A' is there twice"),
        (b"metadata: {name: a}\n", "kind: is needed"),
        (b"kind: TraningJob\n", "try: write kind: TrainingJob"),
        (b"kind: Service\n", "try: mw apply -f "),
        (b"- a\n- b\n", "a manifest is a mapping (kind, metadata, spec), not a list"),
        (b"# caf\xe9\n", "is not UTF-8 text: byte 6 is 0xe9"),
        (b"\x00", "not valid YAML"),
        (b"", "there are no manifests in "),
    ],
)
def test_a_file_that_is_no_manifest(
    api: StubApi, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: bytes, said: str
) -> None:
    (tmp_path / "job.yaml").write_bytes(text)
    assert run(["job", "submit", "-f", str(tmp_path / "job.yaml")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert not api.bodies("/apply")


def test_yaml_may_still_merge_a_mapping(api: StubApi, tmp_path: Path) -> None:
    text = "x-env: &x {A: '1', B: '2'}\nkind: TrainingJob\nmetadata: {name: a}\nspec: {env: {<<: *x, B: '3'}}\n"
    assert run(["apply", "-f", manifest(tmp_path, text)]) == 0
    assert api.bodies("/apply")[0]["manifests"][0]["spec"]["env"] == {"A": "1", "B": "3"}


def test_a_manifest_with_a_workspace_is_deleted_and_followed_there(
    api: StubApi, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = "kind: Bucket\nmetadata: {name: data, workspace: team}\nspec: {}\n"
    path = manifest(tmp_path, text)
    api.add("Bucket", "data")
    assert run(["delete", "-f", path]) == 0
    (deleted,) = [r for r in api.requests if r.method == "DELETE"]
    assert deleted.url.params["workspace"] == "team"
    assert capsys.readouterr().out == "team/Bucket/data deleted\n"

    job = manifest(tmp_path, "kind: TrainingJob\nmetadata: {name: a, workspace: team}\nspec: {command: x}\n")
    made = api.add("TrainingJob", "a", phase="Succeeded")
    made["metadata"]["workspace"] = "team"
    api.routes["POST /apply"] = {"results": [{"action": "created", "resource": made}]}
    assert run(["job", "submit", "-f", job, "--wait"]) == 0
    asked = [r for r in api.requests if r.method == "GET" and r.url.path.endswith("/TrainingJob/a")]
    assert asked
    assert {r.url.params["workspace"] for r in asked} == {"team"}


def test_a_name_of_a_job_and_a_service_is_ambiguous(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.add("TrainingJob", "digits", phase="Succeeded")
    api.add("Service", "digits", phase="Running")
    assert run(["logs", "digits"]) == 2
    assert "mw logs job/digits, or mw logs service/digits" in capsys.readouterr().err


def test_a_row_is_a_line_where_there_is_no_terminal(
    api: StubApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    message = "exit code 1: " + "x" * 300
    api.add("TrainingJob", "digits", phase="Failed", message=message)
    assert run(["job", "list"]) == 0
    assert message in capsys.readouterr().out


def test_what_is_shipped_is_shown_and_not_deleted(api: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /environments"] = {"items": [{"name": "python-data", "requirements": ["numpy"]}]}
    assert run(["get", "environment", "python-data"]) == 0
    assert "name: python-data\n" in capsys.readouterr().out
    assert run(["delete", "environment", "python-data"]) == 4
    assert "is shipped" in capsys.readouterr().err
    assert run(["get", "environment", "other"]) == 3


@pytest.mark.parametrize(
    ("kind", "command"), [("events", "mw events"), ("key", "mw key list"), ("nodes", "mw node list")]
)
def test_what_is_no_kind_names_its_command(
    api: StubApi, capsys: pytest.CaptureFixture[str], kind: str, command: str
) -> None:
    assert run(["get", kind]) == 2
    assert f"try: {command}\n" in capsys.readouterr().err


def test_a_key_is_piped_in_or_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MW_API_KEY", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["login", "http://127.0.0.1:1"]) == 2
    assert "an API key is needed" in capsys.readouterr().err


def test_a_home_that_is_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("MW_API", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MW_HOME", str(tmp_path / "file"))
    assert run(["get", "jobs"]) == 5
    assert "file is not a directory" in capsys.readouterr().err
