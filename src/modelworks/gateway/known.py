"""Heads that were read before. One request of a client is like its last one but for the length of its body, and so
are a replica's answers: what reading a head gave is remembered by its very bytes, without the digits of Content-Length.

Only plain messages are remembered: HTTP/1.1, kept alive, framed by Content-Length or without a body. The parser has
read each of them once, with every check, and a message is taken from memory only when it is whole in one read.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from modelworks.gateway.heads import RequestHead, ResponseHead

_REMEMBERED = 16
_LONGEST = 4096
_UNREMEMBERED = (b"HEAD", b"CONNECT")
Known = TypeVar("Known")


class KnownRequest(NamedTuple):
    """``upstream``: the head for the replica, up to the digits of Content-Length (its last header) if it has one."""

    head: RequestHead
    service: bytes
    upstream: bytes


class KnownAnswer(NamedTuple):
    """``lines``: the status line and the replica's headers for the client, but for Content-Length."""

    status: int
    lines: bytes


class Message(NamedTuple):
    """A whole message in one read: its head without the digits of its length, and where its body begins."""

    key: bytes
    length: int | None
    body: int


def whole(data: bytes) -> Message | None:
    """``data`` as one whole message, if it can be told from its head alone that it is one."""
    end = data.find(b"\r\n\r\n")
    if end < 0 or end > _LONGEST:
        return None
    at = data.find(b"\r\nContent-Length: ", 0, end)
    if at < 0:
        at = data.find(b"\r\ncontent-length: ", 0, end)
        if at < 0:
            return Message(data[:end], None, end + 4) if end + 4 == len(data) else None
    start = at + 18
    stop = data.find(b"\r", start)
    digits = data[start:stop]
    if stop - start > 9 or not digits.isdigit():
        return None
    length = int(digits)
    if end + 4 + length != len(data):
        return None
    return Message(data[:start] + data[stop:end], length, end + 4)


def plain_request(head: RequestHead) -> bool:
    """Whether another request with this head may be taken from memory."""
    return (
        head.http11
        and head.keep_alive
        and not head.chunked
        and not head.expects
        and head.upgrade is None
        and head.method not in _UNREMEMBERED
    )


def plain_answer(response: ResponseHead) -> bool:
    """Whether another answer with this head may be taken from memory, provided that the connection is kept."""
    return (
        200 <= response.status < 600
        and response.status not in (204, 304)
        and response.length is not None
        and response.upgrade is None
    )


def remember(memory: dict[bytes, Known], key: bytes, known: Known) -> None:
    """Keep ``known``; a memory that is full is emptied, since what matters in it is back after one request."""
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = known
