"""Pages of the documentation, typed as printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli_platform import Mw
from tests.documents import ROOT, blocks


def typed(page: Path, folder: Path, mw: Mw) -> str:
    """Write the page's files and run its blocks in order, in one shell; the test fails with the line of the block.

    What they printed.
    """
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
    return done.stdout


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
