"""Files between a workload and its agent: what it tells of its progress, and the notice that it is to end.

They lie in one directory, which the workload may write. So nothing in it is believed: links are not followed, only
regular files are read, and of those no more than was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelworks.runtime.sandbox import RUN_MOUNT

NAME = "exchange"
MOUNT = f"{RUN_MOUNT}/{NAME}"
PROGRESS, METRICS, NOTICE = "progress.json", "metrics.jsonl", "notice.json"
_FILES = {"MW_PROGRESS_FILE": PROGRESS, "MW_METRICS_FILE": METRICS, "MW_NOTICE_FILE": NOTICE}


def variables(folder: str) -> dict[str, str]:
    """The variables of a workload that finds the directory at ``folder``."""
    return {name: f"{folder}/{file}" for name, file in _FILES.items()}


class Exchange:
    """The agent's side of the directory, which may be missing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str, offset: int = 0, limit: int = 64 * 1024) -> bytes:
        """Up to ``limit`` bytes of a file from ``offset``; empty when it is missing or no regular file."""
        try:
            with self._open(name) as descriptor:
                return os.pread(descriptor, limit, offset)
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return b""
            raise

    def size(self, name: str) -> int:
        """Bytes of a file; 0 when it is missing or no regular file."""
        try:
            with self._open(name) as descriptor:
                return os.fstat(descriptor).st_size
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return 0
            raise

    def write_notice(self, reason: str, at: float, deadline: float, message: str = "") -> None:
        """Replace the notice: ``{version, reason, at, deadline, message}``, times in Unix seconds.

        A run without the directory, or whose workload put something in its way, gets none: SIGTERM tells it too.
        """
        document = {"version": 1, "reason": reason, "at": at, "deadline": deadline, "message": message}
        try:
            self._replace(NOTICE, json.dumps(document, separators=(",", ":")).encode())
        except OSError as error:
            if error.errno not in {*_NOT_A_FILE, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST}:
                raise

    def _replace(self, name: str, data: bytes) -> None:
        with self._directory() as folder:
            owner, temporary = os.fstat(folder).st_uid, f".{name}.{secrets.token_hex(8)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o644, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    if os.geteuid() == 0:
                        os.fchown(descriptor, owner, -1)
                    file.write(data)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    @contextmanager
    def _directory(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _open(self, name: str) -> Iterator[int]:
        """A regular file of the directory. Raises OSError with a number of ``_NOT_A_FILE`` for what is none."""
        with self._directory() as folder:
            # Without O_NONBLOCK a named pipe would hold us until somebody writes to it.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=folder)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                yield descriptor
            finally:
                os.close(descriptor)


# Missing, a link, a directory, a device or pipe or socket, or (of a container's user) closed to us.
_NOT_A_FILE = frozenset(
    {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ENODEV}
    | {errno.EACCES, errno.EPERM}
)
