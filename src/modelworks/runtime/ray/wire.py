"""One HTTP/1.1 message with a length, as bytes: what bridge and doors pass on without looking into it."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from modelworks.kernel.errors import ModelworksError

MOST_HEAD = 64 * 1024
MOST_BODY = 32 << 20


async def read_message(reader: asyncio.StreamReader) -> bytes | None:
    """Head and body of the next message; None at the end of the stream. Raises ConnectionError for what is not one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ConnectionError("the message ends within its head") from None
        return None
    except asyncio.LimitOverrunError:
        raise ConnectionError(f"the head of the message is larger than {MOST_HEAD} bytes") from None
    length = content_length(head)
    try:
        return head + await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise ConnectionError("the message ends within its body") from None


def content_length(head: bytes) -> int:
    """What the head says of the body's length; 0 without a word. Raises ConnectionError for a length that is none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            text = value.strip()
            if not text.isdigit() or int(text) > MOST_BODY:
                raise ConnectionError(f"the message must have a length of at most {MOST_BODY} bytes")
            return int(text)
    return 0


def split(message: bytes) -> tuple[bytes, bytes]:
    """First line and headers, with the empty line at their end; the body."""
    head, mark, body = message.partition(b"\r\n\r\n")
    return head + mark, body


def target(message: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path and query (the last value of each name) of a request."""
    method, _, rest = message.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
    url = urlsplit(rest.rpartition(" ")[0])
    return method, url.path, {name: values[-1] for name, values in parse_qs(url.query).items()}


def status(message: bytes) -> int:
    """Of an answer. Raises ConnectionError when its first line is not one of HTTP."""
    try:
        return int(message.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise ConnectionError("what came is no answer of HTTP") from None


def request(method: str, path: str, body: Any = None) -> bytes:
    """A request whose body is JSON."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


def answer(code: int, body: Any, kind: str = "application/json") -> bytes:
    """An answer whose body is JSON."""
    payload = json.dumps(body, separators=(",", ":")).encode()
    head = f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(payload)}\r\n"
    return f"{head}Connection: keep-alive\r\n\r\n".encode() + payload


def problem(error: ModelworksError) -> bytes:
    """The answer that is a problem document."""
    return answer(error.status, error.problem(), "application/problem+json")


async def call(path: str, message: bytes, timeout: float | None = None) -> bytes:
    """Ask whoever listens on a Unix socket. Raises OSError (TimeoutError too) when nothing whole is answered."""
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_unix_connection(path, limit=MOST_HEAD)
        try:
            writer.write(message)
            await writer.drain()
            found = await read_message(reader)
        finally:
            writer.close()
    if found is None:
        raise ConnectionError("the connection was closed without an answer")
    return found
