"""Which Python an environment gets, and what is said when there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelworks.agent import environments
from modelworks.agent.environments import Environments, summary
from modelworks.kernel.errors import EnvironmentFailed
from modelworks.kernel.run import EnvironmentRef
from modelworks.runtime.sandbox import Isolation


def command(folder: Path, version: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"python{version}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a version manager puts on the PATH for a Python that is not chosen."""
    path = command(tmp_path / "shims", "3.99", "echo 'command not found' >&2; exit 127")
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


@pytest.mark.parametrize("uv", ["on", "off"])
def test_a_version_that_is_not_there_is_named(
    shim: Path, tmp_path: Path, uv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MW_UV", uv)
    monkeypatch.setenv("UV_OFFLINE", "1")
    built = Environments(tmp_path / "environments", Isolation(False))
    with pytest.raises(EnvironmentFailed) as raised:
        built.ensure(EnvironmentRef(digest="d", python="3.99"), lambda text: None)
    assert raised.value.detail.startswith("Python 3.99 is not installed on this node")
    assert "install python3.99" in str(raised.value.remedy)


def test_a_command_that_does_not_run_hides_no_other(
    shim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = command(tmp_path / "good", "3.99", "echo 3.99")
    monkeypatch.setenv("PATH", f"{shim.parent}:{good.parent}")
    assert environments._find_python("3.99") == str(good)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "error: No solution found\n  cause: Because there is no a==9, it cannot be.\n",
            "No solution found: Because there is no a==9, it cannot be",
        ),
        ("ERROR: No version satisfies a==9\nERROR: No distribution for a==9", "No version satisfies a==9"),
        ("", "the installer failed without a word"),
    ],
)
def test_one_line_of_what_the_resolver_said(said: str, line: str) -> None:
    assert summary(said) == line
