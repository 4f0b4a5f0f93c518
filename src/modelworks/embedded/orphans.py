"""Engine processes that outlived their supervisor's memory of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from modelworks.kernel.errors import SetupFailed

_PAUSE = 0.02


def working_in(directory: Path, command: str) -> set[int]:
    """Processes named ``command`` whose working directory is ``directory``, whatever their parent."""
    found = set()
    target = directory.stat()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "cwd").stat()
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
        if (status.st_dev, status.st_ino) == (target.st_dev, target.st_ino) and name == command:
            found.add(int(entry.name))
    return found


def end(directory: Path, command: str, first: int | None, stop: signal.Signals, patience: float) -> None:
    """Nothing named ``command`` works in ``directory`` any more.

    ``stop`` is sent to all of them, or to ``first`` only, whose children then end by themselves; SIGKILL follows. Pid
    files do not tell who runs: a reboot may have given the pid to somebody else.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + patience
    while pids := working_in(directory, command):
        late = time.monotonic() > deadline
        for pid in pids:
            if late:
                os.kill(pid, signal.SIGKILL)
            elif pid not in asked and first in (None, pid):
                os.kill(pid, stop)
                asked.add(pid)
        if time.monotonic() > deadline + 5:
            raise SetupFailed(
                f"{command} still runs on {directory} (processes {', '.join(map(str, sorted(pids)))})",
                remedy="end these processes and start again",
            )
        time.sleep(_PAUSE)
