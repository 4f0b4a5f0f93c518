"""A server at a Unix socket that only this account may ask."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def serve(path: Path, accept: Accept, limit: int) -> asyncio.Server:
    """Take the place of a socket that somebody before us left; ``limit`` is of a line, in bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mask is the whole process's: nothing else may come between.
        before = os.umask(0o177)
        try:
            listening.bind(str(temporary))
        finally:
            os.umask(before)
        server = await asyncio.start_unix_server(accept, sock=listening, limit=limit)
    except BaseException:
        listening.close()
        raise
    temporary.rename(path)
    return server
