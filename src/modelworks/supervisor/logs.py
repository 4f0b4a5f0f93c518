"""The processes' logs: appended by the processes themselves, so that they outlive the supervisor, which cuts them."""

from __future__ import annotations

import os
from pathlib import Path

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed

LIMIT = 16 * 1024 * 1024
KEPT = 3
_CHUNK = 1 << 20


def path_of(home: Home, name: str) -> Path:
    return home.logs / f"{name}.log"


def open_log(home: Home, name: str) -> int:
    """A descriptor that always writes at the end, wherever a rotation has put it."""
    return os.open(path_of(home, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def rotate(path: Path, limit: int = LIMIT, kept: int = KEPT) -> bool:
    """Copy a log that has outgrown ``limit`` bytes to ``<log>.1`` and cut it; older ones move on, up to ``kept``.

    Copied, not renamed: its writer has it open. Lines written between the copy's end and the cut are lost.
    """
    try:
        if path.stat().st_size < limit:
            return False
    except FileNotFoundError:
        return False
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    with path.open("r+b") as source, path.with_name(f"{path.name}.1").open("wb") as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
        source.truncate(0)
    return True


def tail(path: Path, lines: int = 15) -> list[str]:
    """The last lines of a log; none when there is no log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:]


def failure(home: Home, name: str, reason: str, last_exit: str) -> SetupFailed:
    """That the platform cannot start because of one process, in the words of its log."""
    path = path_of(home, name)
    lines = "".join(f"\n  | {line}" for line in tail(path))
    return SetupFailed(
        f"{reason}{f' ({last_exit})' if last_exit else ''}; the end of {path}:{lines or ' it is empty'}",
        remedy="correct what the log says and run `mw up` again",
    )
