"""`mw job submit` by flags, up to the platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.cli import app
from modelworks.cli.manifests import Source


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """The manifests that a command line comes to."""
    found: list[Source] = []

    def take(sources: list[Source], kind: str) -> None:
        found.extend(sources)
        raise SystemExit(0)

    monkeypatch.setattr("modelworks.cli.manifests.find_any", take)
    monkeypatch.setattr("modelworks.cli.command.Invocation.connect", lambda _: None)
    return found


def submit(*arguments: str) -> int:
    try:
        return app.run(["job", "submit", *arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("dash", ["_", "-"])
def test_both_spellings(made: list[Source], dash: str) -> None:
    words = ["--name", "t", "--command", "x", "--workers", "2", "--worker_image", "torch", "--worker_cpu", "2"]
    assert submit("pytorchjob", *(w.replace("_", dash) if w.startswith("--") else w for w in words)) == 0
    assert made[0].document == {
        "kind": "TrainingJob",
        "metadata": {"name": "t"},
        "spec": {"command": "x", "environment": "torch", "replicas": 2, "resources": {"cpu": "2"}},
    }


def test_a_folder_of_code_and_flags_without_effect(
    made: list[Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit("trainingjob", "--name=t", "--command=x", f"--code={tmp_path}", "--vpc_id=v", "--interactive=1") == 0
    assert made[0].document["spec"] == {"command": "x", "code": str(tmp_path)}
    assert "--vpc_id has no effect here" in capsys.readouterr().err


def test_a_job_file_counts_more(made: list[Source], tmp_path: Path) -> None:
    file = tmp_path / "job.params"
    file.write_text("# a job\nname=t\ncommand=python train.py --lr=0.1\nworkers=3\n\npriority=4\n")
    assert submit("tfjob", "--job_file", str(file), "--priority", "1") == 0
    spec = made[0].document["spec"]
    assert (spec["command"], spec["replicas"], spec["priority"]) == ("python train.py --lr=0.1", 3, 4)
    file.write_text("nmae=t\n")
    assert submit("tfjob", "--job_file", str(file)) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "what should be submitted?"),
        (("pytorchjob",), "--name: is needed"),
        (("pytorchjob", "-f", "x.yaml"), "give either -f"),
        (("job", "--name", "x", "--command", "y"), "there is no job kind job"),
        (("pytorchjob", "--wokers", "2"), "--wokers"),
    ],
)
def test_mistakes(
    made: list[Source], arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(*arguments) == 2
    assert said in capsys.readouterr().err
