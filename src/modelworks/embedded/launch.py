"""How an engine's process is started and stopped, as data for the supervisor."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelworks.kernel.errors import SetupFailed
from modelworks.kernel.quantities import format_bytes


@dataclass(frozen=True)
class User:
    """An account as ``subprocess`` takes it."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Launch:
    """``Popen(argv, env=…, cwd=…)``; with ``user`` also ``user=uid, group=gid, extra_groups=[]``.

    ``stop_signal`` begins a graceful end, which takes up to ``stop_timeout`` seconds; SIGKILL after it loses nothing
    that was acknowledged. ``leaves`` are sockets that may stay behind: to be removed once the process has ended.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    user: User | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 10.0
    ports: tuple[int, ...] = ()
    leaves: tuple[Path, ...] = ()


def unprivileged_user() -> User | None:
    """Whom an engine that refuses root runs as: ``postgres``, else ``nobody``; None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise SetupFailed(
        "PostgreSQL does not run as root, and neither of the accounts 'postgres' and 'nobody' exists",
        remedy="add one with `useradd --system postgres`, or run `mw up` as an ordinary user",
    )


def make_directory(path: Path, mode: int, owner: User | None = None) -> None:
    """``path`` exists with ``mode`` and, under root, its owner. Raises SetupFailed naming the path."""
    with explained(path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        # A short run directory lies in /tmp, where anybody may have made it before us.
        if path.stat().st_uid not in (os.geteuid(), os.geteuid() if owner is None else owner.uid):
            raise SetupFailed(
                f"{path} belongs to another user", remedy="remove it, or set MW_HOME to another directory"
            )
        path.chmod(mode)
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)


def write_secret(path: Path, text: str, owner: User | None = None, mode: int = 0o600) -> None:
    """Replace ``path`` atomically and durably; nobody else can read it at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with explained(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, owner.uid, owner.gid)
            os.fsync(descriptor)
        temporary.replace(path)


def check_reachable(path: Path, user: User) -> None:
    """Raises SetupFailed when ``user`` cannot enter a directory above ``path``."""
    for parent in reversed(path.parents):
        status = parent.stat()
        if status.st_uid == user.uid:
            shift = 6
        else:
            shift = 3 if status.st_gid == user.gid else 0
        if not status.st_mode >> shift & 0o1:
            raise SetupFailed(
                f"PostgreSQL runs as the user {user.name!r}, which cannot enter {parent}",
                remedy=f"set MW_HOME to a directory that others can enter (such as /var/lib/modelworks), "
                f"or run `chmod o+x {parent}`",
            )


def check_space(path: Path, needed: int = 128 << 20) -> None:
    """Raises SetupFailed when less than ``needed`` bytes are free on the disk of ``path``."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise SetupFailed(
            f"no space left on the disk of {path}: {format_bytes(free)} free, {format_bytes(needed)} needed",
            remedy="free some space, or set MW_HOME to another disk",
        )


class explained:
    """Turns the operating system's refusals into SetupFailed with the path and what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            raise os_refusal(error, self._path) from error


def os_refusal(error: OSError, path: Path) -> SetupFailed:
    """The SetupFailed for an OSError met at ``path``."""
    where = error.filename or str(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupFailed(
            f"no space left on the disk of {where}", remedy="free some space, or set MW_HOME to another disk"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return SetupFailed(
            f"permission denied: {where}",
            remedy=f"give this user the directory (`chown -R $(id -un) {path}`), or set MW_HOME to another one",
        )
    if error.errno == errno.EROFS:
        return SetupFailed(f"{where} is on a read-only file system", remedy="set MW_HOME to a writable directory")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return SetupFailed(
            f"{where} is in the way: it is not a directory", remedy="move it away, or set another MW_HOME"
        )
    return SetupFailed(f"{where}: {error.strerror or error}", remedy="look at the path, or set MW_HOME to another one")
