"""The README and the tutorials, typed as printed: on one real platform, each in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli_platform import Mw, fresh
from tests.documents import DOCS, ROOT, blocks

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("tutorials")]


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one


def typed(page: Path, folder: Path, mw: Mw) -> None:
    """Write the page's files and run its blocks in order, in one shell; the test fails with the line of the block."""
    script = ["set -e -o pipefail"]
    for number, block in enumerate(blocks(page.read_text())):
        if block.file is not None:
            (folder / block.file).parent.mkdir(exist_ok=True)
            (folder / block.file).write_text(block.text)
        elif block.run and block.language in ("sh", "python"):
            script.append(f"echo '--- {page.name}:{block.line}' >&2")
            if block.language == "sh":
                script.append(block.text)
            else:
                (folder / f".block-{number}.py").write_text(block.text)
                script.append(f"python .block-{number}.py")
    binaries = Path(sys.executable).parent
    environment = mw.environment | {"PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": ""}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]


def as_cloned(folder: Path) -> None:
    """The repository as after ``make install``: ``make`` finds it done and installs nothing."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("examples", "src"):
        (folder / name).symlink_to(ROOT / name)
    venv = folder / ".venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    (venv / ".installed").touch()


def test_the_readme(mw: Mw, tmp_path: Path) -> None:
    as_cloned(tmp_path)
    typed(ROOT / "README.md", tmp_path, mw)


def test_the_tutorial(mw: Mw, tmp_path: Path) -> None:
    """After the README's, whose service still runs: two cores must do for both."""
    typed(DOCS / "tutorial.md", tmp_path, mw)


def test_the_tutorial_of_serving(mw: Mw, tmp_path: Path) -> None:
    typed(DOCS / "tutorial-serving.md", tmp_path, mw)


def test_the_api_page(mw: Mw, tmp_path: Path) -> None:
    typed(DOCS / "api.md", tmp_path, mw)
