"""What passes to MLflow, whose workspace is whose, and tokens of jobs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.cipher import Cipher
from modelworks.kernel.errors import Invalid
from modelworks.products.training import tracking
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.supervisor import policy
from modelworks.supervisor.policy import Need, Phase, Seen
from modelworks.tracking import callers, rules, tokens

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?", fullmatch=True)
uids = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
attempts = st.integers(1, 100_000)
CIPHER, OTHER = Cipher(b"k" * 32), Cipher(b"o" * 32)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/static-files/static/js/main.js"),
        ("POST", "/api/2.0/mlflow/runs/log-batch"),
        ("GET", "/ajax-api/2.0/mlflow/experiments/search"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/model.pkl"),
        ("POST", "/graphql"),
        ("GET", "/ajax-api/3.0/mlflow/workspaces"),
        ("POST", "/v1/traces"),
    ],
)
def test_tracking_passes(method: str, path: str) -> None:
    assert rules.passes(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("POST", "/ajax-api/3.0/jobs/"),
        ("POST", "/gateway/openai/v1/chat/completions"),
        ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"),
        ("POST", "/api/3.0/mlflow/gateway/secrets/create"),
        ("POST", "/api/2.0/mlflow/webhooks"),
        ("POST", "/api/3.0/mlflow/scorers/register"),
        ("POST", "/api/3.0/mlflow/workspaces"),
        ("DELETE", "/api/3.0/mlflow/workspaces/other"),
        ("GET", "/api/2.0/mlflow/artifacts/presigned-download-url"),
        ("GET", "/api/2.0/mlflow-artifacts/presigned/x"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/x"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/../../other"),
        ("GET", "//api/2.0/mlflow/experiments/search"),
        ("GET", "/build/main.js"),
    ],
)
def test_what_is_not_tracking_does_not(method: str, path: str) -> None:
    assert not rules.passes(method, path)


def test_a_search_is_no_write() -> None:
    assert not rules.writes("POST", "/api/2.0/mlflow/runs/search")
    assert not rules.writes("GET", "/api/2.0/mlflow/runs/get")
    assert rules.writes("POST", "/api/2.0/mlflow/runs/create")
    assert rules.writes("PUT", "/api/2.0/mlflow-artifacts/artifacts/x")


def test_jobs_delete_nothing_of_others() -> None:
    assert rules.kept_from_jobs("POST", "/api/2.0/mlflow/experiments/delete")
    assert rules.kept_from_jobs("POST", "/ajax-api/2.0/mlflow/runs/delete")
    assert not rules.kept_from_jobs("POST", "/api/2.0/mlflow/runs/delete-tag")


@pytest.mark.parametrize("key", ["artifact_location", "artifactLocation", "source", "default_artifact_root"])
@pytest.mark.parametrize("place", ["file:///etc", "/etc", "s3://mw--tracking/workspaces/other", "http://10.0.0.1/"])
def test_places_that_are_not_the_servers_are_found(key: str, place: str) -> None:
    body = json.dumps({"name": "x", "inner": [{key: place}]}).encode()
    assert rules.foreign_place(body) == place
    assert rules.foreign_place(json.dumps(body.decode()).encode()) == place
    tag = {"tags": [{"key": "mlflow.artifactLocation", "value": place}]}
    assert rules.foreign_place(json.dumps(tag).encode()) == place


def test_the_servers_own_places_pass() -> None:
    for place in ("mlflow-artifacts:/workspaces/default/1", "runs:/abc/model", "models:/m-1", ""):
        assert rules.foreign_place(json.dumps({"source": place}).encode()) is None
    assert rules.foreign_place(b"") is None
    assert rules.foreign_place(b"not json") is None


@given(names, names)
def test_no_two_workspaces_are_one_to_mlflow(one: str, other: str) -> None:
    mapped = rules.mlflow_workspace(one)
    assert 2 <= len(mapped) <= 63
    assert mapped not in ("workspaces", "api", "ajax-api", "static-files")
    assert rules.own_workspace(mapped) == one
    assert (mapped == rules.mlflow_workspace(other)) == (one == other)


@given(uids, attempts)
def test_a_token_says_whose_it_is_and_is_good_here_only(uid: str, attempt: int) -> None:
    text = tokens.token(CIPHER, uid, attempt)
    assert tokens.claimed(CIPHER, text) == tokens.Claimed(uid, attempt)
    assert tokens.claimed(OTHER, text) is None
    assert tokens.claimed(CIPHER, text.replace(f".{attempt}.", f".{attempt + 1}.")) is None


@given(st.text(max_size=80))
def test_no_text_is_a_token_by_chance(text: str) -> None:
    assert tokens.claimed(CIPHER, text) is None
    callers.credential(text)


def test_a_token_ends_with_its_attempt() -> None:
    assert callers.is_current({"phase": "Running", "attempt": 2}, 2)
    assert callers.is_current({}, 1)
    assert not callers.is_current({"phase": "Running", "attempt": 2}, 1)
    assert not callers.is_current({"phase": "Succeeded", "attempt": 2}, 2)


def test_the_key_is_bearers_or_the_password() -> None:
    assert callers.credential("Bearer mw_x") == "mw_x"
    assert callers.credential("Basic dTpwOnE=") == "p:q"
    assert callers.credential("Basic !") is None
    assert callers.credential(None) is None


def test_jobs_are_tracked_where_there_is_a_server_unless_they_say_otherwise() -> None:
    plain = TrainingJobSpec.parse({"command": "x"})
    assert tracking.resolve(plain, available=True)
    assert not tracking.resolve(plain, available=False)
    assert not tracking.resolve(TrainingJobSpec.parse({"command": "x", "tracking": False}), available=True)
    with pytest.raises(Invalid):
        tracking.resolve(TrainingJobSpec.parse({"command": "x", "tracking": True}), available=False)


def test_a_job_with_a_server_of_its_own_is_told_nothing() -> None:
    own = TrainingJobSpec.parse({"command": "x", "env": {"MLFLOW_TRACKING_URI": "http://elsewhere"}})
    assert tracking.variables(own, "u", "n") == {}
    told = tracking.variables(TrainingJobSpec.parse({"command": "x", "experiment": "e"}), "u", "n")
    assert (told["MLFLOW_RUN_ID"], told["MLFLOW_EXPERIMENT_NAME"], told["MLFLOW_RUN_NAME"]) == ("u", "e", "n")


@pytest.mark.parametrize(
    ("tracked", "own", "wanted"),
    [
        (True, {}, True),
        (True, {"MLFLOW_RUN_ID": "mine"}, True),
        (True, {"MLFLOW_TRACKING_URI": "http://elsewhere", "MLFLOW_RUN_ID": "mine"}, False),
        (True, {"MLFLOW_TRACKING_TOKEN": "mine"}, False),
        (False, {"MLFLOW_RUN_ID": "mine"}, False),
    ],
)
def test_a_token_is_for_tracked_jobs_and_for_no_server_but_ours(
    tracked: bool, own: dict[str, str], wanted: bool
) -> None:
    spec = TrainingJobSpec.parse({"command": "x", "env": own})
    env = (tracking.variables(spec, "u", "n") if tracked else {}) | own
    assert tokens.wanted({"tracking": True} if tracked else {}, env) is wanted


def test_what_starts_on_demand_starts_when_it_is_wanted_and_nothing_waits_for_it() -> None:
    needs = {"gateway": Need("gateway"), "tracking": Need("tracking", on_demand=True)}
    up = Seen(running=True, ready_since=1.0, was_ready=True)
    assert policy.plan(needs, {"gateway": up}, 2.0).start == ()
    assert policy.all_usable(needs, {"gateway": up})
    assert policy.phase(needs["tracking"], Seen(), {}) is Phase.IDLE
    assert policy.plan(needs, {"gateway": up, "tracking": Seen(wanted=True)}, 2.0).start == ("tracking",)
    failed = Seen(exited_at=5.0, failures=9, wanted=True)
    assert policy.plan(needs, {"gateway": up, "tracking": failed}, 6.0).start == ()
    assert policy.give_up(needs, {"gateway": up, "tracking": failed}, 0.0, 1e6) is None
