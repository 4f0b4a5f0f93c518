"""Asks a replica whether it is ready, over its Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from modelworks.replicasocket import unredirected


class NotReady(Exception):
    """The replica did not answer well; the text says how."""


async def ask(socket: Path, path: str, timeout: float) -> None:
    """``GET path``: returns when the answer is 2xx or 3xx, else raises :class:`NotReady`."""
    try:
        async with asyncio.timeout(timeout):
            status = await _status(socket, path)
    except TimeoutError:
        raise NotReady(f"GET {path} did not answer within {timeout:g} s") from None
    except FileNotFoundError:
        raise NotReady("it does not listen yet") from None
    except OSError as error:
        raise NotReady(f"it cannot be connected to: {error.strerror or error}") from None
    if not 200 <= status < 400:
        raise NotReady(f"GET {path} answered {status}")


async def _status(socket: Path, path: str) -> int:
    with unredirected(str(socket)) as own:
        reader, writer = await asyncio.open_unix_connection(own)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: replica\r\nConnection: close\r\nAccept: */*\r\n\r\n".encode())
        await writer.drain()
        line = await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # the replica may have closed first
            await writer.wait_closed()
    fields = line.split()
    if len(fields) < 2 or not fields[0].startswith(b"HTTP/") or not fields[1].isdigit():
        raise NotReady("its port is closed" if not line else f"it does not speak HTTP: {line[:40]!r}")
    return int(fields[1])
