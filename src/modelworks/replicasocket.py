"""Connecting to a socket that a workload made. Neutral: used by gateway, courier, relay and agent.

The workload owns the directory, so it may put a link there to a socket of the platform's own, such as the agent's or
PostgreSQL's, and have it asked by whoever may reach them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator


@contextlib.contextmanager
def unredirected(path: str) -> Iterator[str]:
    """A path for connect(2) that is the socket lying at ``path`` itself, whatever is put there meanwhile.

    Raises FileNotFoundError, and ConnectionRefusedError for what is no socket, such as a link to one.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "there is something else than a socket", path)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
