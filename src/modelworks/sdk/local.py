"""Running a job here, without the platform: the same manifest, in a process of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from modelworks.kernel.errors import Invalid, WorkloadFailed
from modelworks.sdk.client import Document

_NOT_RUN = 125  # of `run-local`


def run(manifest: Document, *, source: str | None = None, output: str | None = None, log: TextIO | None = None) -> Path:
    """Run a TrainingJob manifest whose inputs and code are local folders: the folder that holds its output.

    Raises Invalid when the command was not run at all, WorkloadFailed when it fails. What it prints goes to the file
    ``log``, else where ours does.
    """
    directory = Path(output).expanduser() if output else Path(tempfile.mkdtemp(prefix="mw-local-"))
    directory.mkdir(parents=True, exist_ok=True)
    if source is not None:
        manifest = {**manifest, "spec": {**manifest["spec"], "code": str(Path(source).expanduser().absolute())}}
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="mw-job-") as file:
        json.dump(manifest, file)
        file.flush()
        code = run_file(Path(file.name), directory, log)
    if code == _NOT_RUN:
        raise Invalid(f"job {manifest['metadata']['name']} was not run", remedy="mend what is told above")
    if code != 0:
        raise WorkloadFailed(f"job {manifest['metadata']['name']} failed: exit code {code}")
    return directory / "output" if (directory / "output").is_dir() else directory


def run_file(manifest: Path, directory: Path, log: TextIO | None = None) -> int:
    """The exit code of ``run-local``, which is the command's own."""
    argv = [sys.executable, "-m", "modelworks.main", "run-local", str(manifest), "--directory", str(directory)]
    return subprocess.run(argv, check=False, stdout=log).returncode
