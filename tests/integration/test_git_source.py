"""A job's source out of a real Git repository."""

from __future__ import annotations

import base64
import functools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.sdk.estimator import Estimator
from modelworks.sdk.git_source import checkout


def git(folder: Path, *arguments: str) -> str:
    own = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", *own, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits on main, a third on the branch `next`."""
    folder = tmp_path / "repository"
    (folder / "src").mkdir(parents=True)
    git(folder, "init", "--quiet")
    for number, branch in ((1, None), (2, None), (3, "next")):
        if branch:
            git(folder, "checkout", "--quiet", "-b", branch)
        (folder / "src/train.py").write_text(f"print({number})\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", str(number))
    git(folder, "checkout", "--quiet", "main")
    return folder


def text(config: dict[str, str], folder: str | None = "src") -> str:
    with checkout(config, folder) as found:
        return (found / "train.py").read_text()


def test_branch_and_commit(repository: Path) -> None:
    repo = f"file://{repository}"
    assert text({"repo": repo}) == "print(2)\n"
    assert text({"repo": repo, "branch": "next"}) == "print(3)\n"
    assert text({"repo": repo, "commit": git(repository, "rev-parse", "main~1").strip()}) == "print(1)\n"


def test_an_estimator_runs_it(repository: Path, tmp_path: Path) -> None:
    config = {"repo": f"file://{repository}", "branch": "next"}
    estimator = Estimator(
        command="python train.py > $MW_OUTPUT_DIR/said", source_dir="src", git_config=config, instance_type="local",
        output_path=str(tmp_path / "out"),
    )  # fmt: skip
    estimator.fit()
    assert (Path(estimator.model_data) / "said").read_text() == "3\n"


def test_mistakes(repository: Path) -> None:
    repo = f"file://{repository}"
    with pytest.raises(Invalid, match="has no other"):
        text({"repo": repo}, "other")
    with pytest.raises(Invalid, match=r"has no \.\."):
        text({"repo": repo}, "..")
    with pytest.raises(Invalid, match="cannot be cloned"):
        text({"repo": f"{repo}-gone"})
    with pytest.raises(Invalid, match="git_config has a repo"):
        text({"url": repo})
    with pytest.raises(Invalid) as caught:
        text({"repo": "https://localhost:1/x.git", "token": "s3cret/x"})
    assert "s3cret" not in str(caught.value)


class Guarded(SimpleHTTPRequestHandler):
    """A folder for who knows its password."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:s3cret/x").decode():
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="repository"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def guarded(repository: Path) -> Iterator[str]:
    git(repository, "update-server-info")
    handler = functools.partial(Guarded, directory=str(repository / ".git"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_secret_is_in_no_argument_and_stays_in_no_clone(
    repository: Path, guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "arguments"
    (tmp_path / "bin").mkdir()
    spy = tmp_path / "bin/git"
    spy.write_text(f'#!/bin/sh\necho "$@" >>{seen}\nexec {shutil.which("git")} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", str(spy.parent), prepend=":")
    commit = git(repository, "rev-parse", "main").strip()
    with checkout({"repo": f"http://me:s3cret%2Fx@{guarded}/", "commit": commit}, None) as found:
        assert (found / "src/train.py").read_text() == "print(2)\n"
        assert "s3cret" not in (found / ".git/config").read_text()
    assert "clone" in seen.read_text()
    assert "s3cret" not in seen.read_text()
    with pytest.raises(Invalid, match="cannot be cloned") as caught:
        text({"repo": f"http://me:another@{guarded}/", "commit": commit})
    assert "another" not in str(caught.value)
