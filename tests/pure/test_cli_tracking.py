"""`mw tracking` and `mw job compare --plot`, against a stand-in for the platform and its MLflow."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.stub_api import StubApi

from modelworks.cli import job_tracked
from modelworks.cli.app import run
from modelworks.cli.problems import ExitCode
from modelworks.gateway.problems import TRACKING_DOWN
from modelworks.sdk import context

SEARCH = "GET /mlflow/api/2.0/mlflow/experiments/search"
RUN, HISTORY = "GET /mlflow/api/2.0/mlflow/runs/get", "GET /mlflow/api/2.0/mlflow/metrics/get-history"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> StubApi:
    stub = StubApi()
    monkeypatch.setattr(context, "connect", lambda *_, workspace="default": stub.client(workspace))
    return stub


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))
    return opened


@pytest.fixture
def jobs(api: StubApi) -> StubApi:
    """Two jobs that told MLflow of a loss, a job that told nobody anything."""

    def history(request: httpx.Request) -> httpx.Response:
        job, key = request.url.params["run_id"], request.url.params["metric_key"]
        steps = [1, 2, 3, 2, 3] if key == "loss" else [0]  # another attempt went on from step 1
        told = [{"step": step, "timestamp": n, "value": n + len(job)} for n, step in enumerate(steps)]
        return httpx.Response(200, json={"metrics": told})

    for name in ("a", "b", "silent"):
        api.add("TrainingJob", name)["resolved"] = {"tracking": name != "silent"}
        api.routes[f"GET /jobs/{name}/reports"] = {"items": []}
    metrics = [{"key": "loss", "value": 7.0}, {"key": "score", "value": 0.5}]
    api.routes[RUN] = {"run": {"data": {"metrics": metrics, "params": []}}}
    api.routes[HISTORY] = history
    return api


def test_the_pages_are_opened_once_the_server_answers(
    api: StubApi, browser: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes[SEARCH] = {"experiments": []}
    assert run(["tracking", "ui"]) == 0
    told = capsys.readouterr()
    assert browser == ["http://mw.test/mlflow/"]
    assert "http://mw.test/mlflow/; the password is an API key" in told.out
    assert "no browser here" in told.err


def test_where_there_is_no_server_no_browser_is_opened(
    api: StubApi, browser: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes[SEARCH] = httpx.Response(503, content=TRACKING_DOWN.body())
    assert run(["tracking", "ui"]) == ExitCode.FAILED
    told = capsys.readouterr().err
    assert "There is no tracking server here" in told
    assert "modelworks[server,tracking]" in told
    assert browser == []


def test_curves_of_mlflow_are_drawn_with_what_the_last_attempt_said(
    jobs: StubApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    plot = job_tracked.plot

    def watched(reported: dict[str, Any], *more: Any) -> None:
        drawn.append(
            {
                job: {one["name"]: {point["step"]: point["value"] for point in one["points"]} for one in items}
                for job, items in reported.items()
            }
        )
        plot(reported, *more)

    monkeypatch.setattr(job_tracked, "plot", watched)
    picture = tmp_path / "loss.jpg"
    assert run(["job", "compare", "a", "silent", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert drawn == [{"a": {"loss": {1: 4.0, 2: 7.0, 3: 8.0}}, "silent": {}}]
    assert run(["job", "compare", "a", "b", "--plot", str(picture), "--name", "score"]) == 0
    assert drawn[1]["b"] == {"score": {0: 4.0}}  # a single value is drawn when it is asked for


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a"], "compare what with what"),
        (["a", "b", "--name", "loss"], "--name chooses what --plot draws"),
        (["a", "b", "--plot", "no/folder/x.png"], "cannot be written to no/folder/x.png: No such file"),
        (["a", "b", "--plot", "x.png", "--name", "lost"], "none of the jobs reported lost by step"),
        (["silent", "silent", "--plot", "x.png"], "none of the jobs reported a value by step"),
    ],
)
def test_what_cannot_be_compared_or_drawn_is_said(
    jobs: StubApi, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(["job", "compare", *arguments]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert not Path("x.png").exists()


def test_a_job_that_is_not_there_is_named(jobs: StubApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "compare", "a", "nope", "--plot", "x.png"]) == ExitCode.NOT_FOUND
    assert "nope" in capsys.readouterr().err
