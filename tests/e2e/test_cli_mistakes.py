"""Mistakes at the command line, against the real platform: told in a line, with what to do, changing nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli_platform import Mw, fresh

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one


JOB = "kind: TrainingJob\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("command: x, replicas: many", "spec.replicas: "),
        ("command: x, replcas: 2", "spec.replcas: unknown field"),
        ("comand: x", "spec.command: "),
        ("command: ''", "spec.command: "),
        ("command: x, instance_type: local.smal", "local.small"),
        ("command: x, environment: python-dat", "python-data"),
        ("command: x, inputs: {data: /home/me}", "spec.inputs.data: "),
        ("command: x, time_limit: soon", "spec.time_limit: "),
        ("command: x, code: ./nowhere", "nowhere does not exist"),
        ("command: x, volumes: [{name: nope, mount_path: /mnt/x}]", "nope"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(mw: Mw, tmp_path: Path, spec: str, said: str) -> None:
    (tmp_path / "job.yaml").write_text(JOB.format(name="wrong", spec=spec))
    done = mw("job", "submit", "-f", "job.yaml", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "job.yaml" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert mw("job", "get", "wrong").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("get", "servces"), 2, "kinds are"),
        (("get", "job", "nope"), 3, "try: `mw job list` shows those there are"),
        (("get", "job", "nope", "-w", "vision"), 3, "try: `mw job list -w vision` shows those there are"),
        (("job", "get", "nope"), 3, "try: `mw job list`"),
        (("job", "log", "nope"), 3, "try: `mw job list`"),
        (("job", "cancel", "nope"), 3, "try: `mw job list`"),
        (("job", "preempt", "nope"), 3, "try: `mw job list`"),
        (("job", "delete", "nope"), 3, "try: `mw job list`"),
        (("job", "compare", "nope", "none"), 3, "nope"),
        (("service", "token", "nope"), 3, "nope"),
        (("service", "call", "nope", "-d", "{}"), 3, "nope"),
        (("model", "register", "m", "--job", "nope"), 2, "nope"),
        (("bucket", "ls", "s3://nope-nope/"), 3, "nope-nope"),
        (("bucket", "create", "Not_A_Name"), 2, "not a valid name"),
        (("key", "revoke", "nope"), 3, "nope"),
        (("cost", "--since", "yesterday"), 2, "since"),
        (("apply", "-f", "nowhere.yaml"), 2, "nowhere.yaml"),
    ],
)
def test_unknown_names(mw: Mw, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = mw(*arguments)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_is_refused(mw: Mw) -> None:
    url = json.loads(mw.home.client.read_text())["url"]
    done = mw("login", url, "--key", "mw_wrong")
    assert done.returncode == 4
    assert "try: " in done.stderr


def test_a_folder_goes_up_and_comes_back(mw: Mw, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("a")
    (tmp_path / "in" / "sub" / "b.txt").write_text("b")
    mw.ok("bucket", "create", "files")
    mw.ok("bucket", "upload", str(tmp_path / "in"), "s3://files/in/")
    listed = json.loads(mw.ok("bucket", "ls", "s3://files/", "--json"))["items"]
    assert [item["key"] for item in listed] == ["in/a.txt", "in/sub/b.txt"]
    mw.ok("bucket", "download", "s3://files/in/", str(tmp_path / "out"))
    assert (tmp_path / "out" / "sub" / "b.txt").read_text() == "b"
    refused = mw("bucket", "delete", "files")
    assert (refused.returncode, "mw bucket rm -r s3://files/" in refused.stderr) == (4, True), refused.stderr
    mw.ok("bucket", "rm", "-r", "s3://files/in/")
    assert json.loads(mw.ok("bucket", "ls", "s3://files/", "--json"))["items"] == []
    mw.ok("bucket", "delete", "files")
    assert mw("bucket", "delete", "files").returncode == 3


def test_the_second_apply_changes_nothing_and_says_so(mw: Mw) -> None:
    volume = "kind: Volume\nmetadata: {name: scratch}\nspec: {size: 1Gi}\n"
    text = f"{volume}---\nkind: Bucket\nmetadata: {{name: twice}}\nspec: {{}}\n"
    assert mw.ok("apply", "-f", "-", stdin=text) == "Volume/scratch created\nBucket/twice created\n"
    assert mw.ok("apply", "-f", "-", stdin=text) == "Volume/scratch unchanged\nBucket/twice unchanged\n"
    changed = text.replace("1Gi", "2Gi")
    assert "spec.size" in mw.ok("diff", "-f", "-", stdin=changed)
    assert mw.ok("apply", "-f", "-", stdin=text).splitlines()[0] == "Volume/scratch unchanged"
    mw.ok("delete", "-f", "-", stdin=text)
    assert mw("get", "volume", "scratch").returncode == 3


def test_a_job_that_fails_says_why_with_exit_code_6(mw: Mw) -> None:
    text = JOB.format(name="fails", spec="command: 'echo before; ls /nowhere; exit 3'")
    done = mw("job", "submit", "-f", "-", "--follow", stdin=text)
    assert done.returncode == 6, done.stderr
    assert "before" in done.stdout
    assert "3" in done.stderr
    assert "/nowhere" in done.stderr


def test_mistakes_about_a_job_that_is_there(mw: Mw, tmp_path: Path) -> None:
    text = JOB.format(name="quick", spec="command: 'true'")
    mw.ok("job", "submit", "-f", "-", "--wait", stdin=text)
    (tmp_path / "tab.yaml").write_text("kind: TrainingJob\nspec:\n\tcommand: x\n")
    for arguments, code, said in (
        (("get", "quik"), 3, "there is no TrainingJob quik in workspace default; did you mean quick?"),
        (("log", "quick", "--replica", "1"), 2, "the job has no replica 1: the only one is 0"),
        (("log", "quick", "--attempt", "7"), 2, "the job has no attempt 7: the only one is 1"),
        (("log", "quick", "-f", "--attempt", "7"), 2, "the job has no attempt 7: the only one is 1"),
        (("cancel", "quick"), 4, "the job quick has ended: Succeeded"),
        (("preempt", "quick"), 4, "the job quick has ended: Succeeded"),
        (
            ("submit", "-f", str(tmp_path / "tab.yaml")),
            2,
            "tab.yaml:3:1: not valid YAML: a tab\ntry: indent with spaces",
        ),
    ):
        done = mw("job", *arguments)
        assert (done.returncode, done.stderr.startswith("error: ")) == (code, True), (arguments, done.stderr)
        assert said in done.stderr


def test_a_cancelled_job_ends_as_cancelled(mw: Mw) -> None:
    mw.ok("job", "submit", "-f", "-", stdin=JOB.format(name="long", spec="command: sleep 600"))
    mw.ok("job", "cancel", "long")
    done = mw("job", "wait", "long")
    assert done.returncode == 6
    assert "cancelled" in done.stderr.lower()
    mw.ok("job", "delete", "long")


def test_a_job_runs_here_without_the_platform(mw: Mw, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.txt").write_text("from the folder")
    (tmp_path / "train.py").write_text(
        "import os, pathlib, shutil\n"
        "source = pathlib.Path(os.environ['MW_INPUT_DATA'], 'x.txt')\n"
        "shutil.copy(source, pathlib.Path(os.environ['MW_OUTPUT_DIR'], 'y.txt'))\n"
        "print('trained')\n"
    )
    spec = "command: python train.py, code: ., inputs: {data: ./data}"
    (tmp_path / "job.yaml").write_text(JOB.format(name="here", spec=spec))
    out = tmp_path / "run"
    done = mw("job", "run", "--local", "-f", "job.yaml", "--directory", str(out), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    output = Path(json.loads(done.stdout[done.stdout.index("{") :])["output"])
    assert (output / "y.txt").read_text() == "from the folder"
