"""A job's source out of a real Git repository."""

from __future__ import annotations

import subprocess
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
