"""What can be told to be wrong with a home before anything is started in it."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.supervisor.procfs import mount_of

NEEDED_BYTES = 200 * 1024 * 1024
_ANOTHER = "or set MW_HOME to another directory"


def make_layout(home: Home) -> None:
    """The directories of a home exist, belong to us and can be written. Raises SetupFailed naming path and user.

    Under root the embedded PostgreSQL's account must pass through the home, so it may be entered, but not listed.
    """
    passage = 0o711 if os.geteuid() == 0 else 0o700
    _directory(home.root, passage)
    _directory(home.run, passage, own=True)
    _directory(home.secrets, 0o700, own=True)
    for path in (home.logs, home.agent, home.volumes, home.gateway_snapshot.parent):
        _directory(path, 0o700)
    for path in (home.root, home.run, home.logs):
        _try_write(path)


def check_access(home: Home) -> None:
    """Raises SetupFailed when there is a home that is not for us: what cannot be seen must not pass for nothing."""
    try:
        os.listdir(home.root)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refusal(error, home.root) from error


def check_disk(home: Home, needed: int = NEEDED_BYTES) -> None:
    """Raises SetupFailed with the mount when less than ``needed`` bytes are free below the home."""
    path = home.root
    while not path.exists():
        path = path.parent
    usage = os.statvfs(path)
    free = usage.f_bavail * usage.f_frsize
    if free < needed:
        raise SetupFailed(
            f"the disk at {mount_of(path)} is full: {free // 2**20} MiB are free, "
            f"{needed // 2**20} MiB are needed for {home.root}",
            remedy=f"free some space there, {_ANOTHER}",
        )


def refusal(error: OSError, path: Path) -> SetupFailed:
    """The SetupFailed for what the operating system refuses at ``path``."""
    where = Path(error.filename) if isinstance(error.filename, str) else path
    user = _user()
    if error.errno in (errno.EACCES, errno.EPERM):
        return SetupFailed(
            f"{where} is not accessible to the user {user}",
            remedy=f"run as its owner, give it away with `chown -R {user} {path}`, {_ANOTHER}",
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return SetupFailed(f"{where} is a file where a directory is needed", remedy=f"move it away, {_ANOTHER}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupFailed(f"no space is left at {mount_of(path)} for {where}", remedy=f"free some space, {_ANOTHER}")
    if error.errno == errno.EROFS:
        return SetupFailed(
            f"{where} is on a read-only file system", remedy="set MW_HOME to a directory that can be written"
        )
    return SetupFailed(f"{where}: {error.strerror or error}", remedy=f"look at the path, {_ANOTHER}")


def _directory(path: Path, mode: int, own: bool = False) -> None:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        status = path.lstat()
        if own and (status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode)):
            # Somebody else's directory of that name (in /tmp, say) would hand them our sockets.
            raise PermissionError(errno.EACCES, "not ours", str(path))
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)
    except OSError as error:
        raise refusal(error, path) from error


def _try_write(path: Path) -> None:
    probe = path / f".write-{os.getpid()}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
        probe.unlink()
    except OSError as error:
        raise refusal(error, path) from error


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's number without a name
        return str(os.geteuid())
