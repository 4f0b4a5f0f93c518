"""Files of an output that another run lent: ``lent.json`` of the run's directory, as they were when they came."""

from __future__ import annotations

from collections.abc import Sequence

from modelworks.agent.outputs import Version
from modelworks.runtime.rundir import RunDirectory

_FILE = "lent.json"  # output → path → [bytes, nanoseconds of the last change]


def note_lent(directory: RunDirectory, output: str, paths: Sequence[str]) -> None:
    """Before the process starts. Raises OSError of the disk."""
    found = {}
    for path in paths:
        status = (directory.output(output) / path).stat()
        found[path] = [status.st_size, status.st_mtime_ns]
    if found:
        directory.write(_FILE, {**(directory.read(_FILE) or {}), output: found})


def lent(directory: RunDirectory, output: str) -> dict[str, Version]:
    """What was noted."""
    noted = (directory.read(_FILE) or {}).get(output, {})
    return {path: (int(size), int(modified)) for path, (size, modified) in noted.items()}
