"""Asks a replica whether it is ready, over its Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from modelworks.replicasocket import unredirected

_MOST_HEADERS, _LONGEST_NOTE = 32, 300


class NotReady(Exception):
    """The replica did not answer well; the text says how."""


async def ask(socket: Path, path: str, timeout: float, *, noted: bool = False, any_status: bool = False) -> str:
    """``GET path``: returns when the answer is 2xx or 3xx, or ``any_status``, else raises :class:`NotReady`.

    With ``noted`` it returns what the answer's header ``X-Mw-Note`` says: what its user should know.
    """
    try:
        async with asyncio.timeout(timeout):
            status, note = await _status(socket, path, noted)
    except TimeoutError:
        raise NotReady(f"GET {path} did not answer within {timeout:g} s") from None
    except FileNotFoundError:
        raise NotReady("it does not listen yet") from None
    except OSError as error:
        raise NotReady(f"it cannot be connected to: {error.strerror or error}") from None
    if not any_status and not 200 <= status < 400:
        raise NotReady(f"GET {path} answered {status}")
    return note


async def _status(socket: Path, path: str, noted: bool) -> tuple[int, str]:
    with unredirected(str(socket)) as own:
        reader, writer = await asyncio.open_unix_connection(own)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: replica\r\nConnection: close\r\nAccept: */*\r\n\r\n".encode())
        await writer.drain()
        line = await reader.readline()
        note = await _note(reader) if noted and line else ""
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # the replica may have closed first
            await writer.wait_closed()
    fields = line.split()
    if len(fields) < 2 or not fields[0].startswith(b"HTTP/") or not fields[1].isdigit():
        raise NotReady("its port is closed" if not line else f"it does not speak HTTP: {line[:40]!r}")
    return int(fields[1]), note


async def _note(reader: asyncio.StreamReader) -> str:
    for _ in range(_MOST_HEADERS):
        name, _, value = (await reader.readline()).partition(b":")
        if not value:
            break
        if name.lower() == b"x-mw-note":
            return value.decode("latin-1").strip()[:_LONGEST_NOTE]
    return ""
