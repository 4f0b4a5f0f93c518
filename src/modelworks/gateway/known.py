"""Heads that were read before. One request of a client is like its last one but for the length of its body, and so
are a replica's answers: what reading a head gave is remembered by its very bytes, without the digits of Content-Length;
and again with them, since lengths repeat too.

Only plain messages are remembered: HTTP/1.1, kept alive, framed by Content-Length or without a body. The parser has
read each of them once, with every check, and a message is taken from memory only when it is whole in one read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from modelworks.gateway.heads import RequestHead, ResponseHead

_REMEMBERED = 16
_LENGTHS = 16
_LONGEST = 4096
_UNREMEMBERED = (b"HEAD", b"CONNECT")


# A whole message in one read: its head without the digits of its length, the length, and where its body begins.
Message = tuple[bytes, int | None, int]


class Whole(Protocol):
    """A message whose head is known with its length, too: ``size`` of it all in bytes."""

    @property
    def size(self) -> int: ...


W = TypeVar("W", bound=Whole)
W_co = TypeVar("W_co", bound=Whole, covariant=True)


class Known(Protocol[W_co]):
    """What reading a head gave, whatever the length of the body."""

    def whole(self, length: int | None, body: int) -> W_co: ...


class Repeated(Protocol):
    """A request whose head is known from others: ``out`` is the head for the replica, ``digest`` of the token it came
    with, ``length`` and ``body`` are of its body and where that begins, in bytes."""

    @property
    def head(self) -> RequestHead: ...
    @property
    def service(self) -> bytes: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def out(self) -> bytes: ...
    @property
    def length(self) -> int: ...
    @property
    def body(self) -> int: ...


@dataclass(slots=True)  # not frozen: that would make it three times slower to build, which is done for each new length
class WholeRequest:
    """``out``: the head for the replica. ``length`` and ``body`` are of the body, and where it begins, in bytes."""

    head: RequestHead
    service: bytes
    digest: bytes
    out: bytes
    length: int
    body: int
    size: int


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """``digest``: of the token it came with. ``out``: the head for the replica, up to the digits of Content-Length (its
    last header) if it has one."""

    head: RequestHead
    service: bytes
    digest: bytes
    out: bytes

    def whole(self, length: int | None, body: int) -> WholeRequest:
        if length is None:
            return WholeRequest(self.head, self.service, self.digest, self.out, 0, body, body)
        out = b"%b%d\r\n\r\n" % (self.out, length)
        return WholeRequest(self.head, self.service, self.digest, out, length, body, body + length)


@dataclass(slots=True)
class WholeAnswer:
    """``out``: the head for a client that did not queue. ``lines``: its lines but for ours and the length."""

    status: int
    lines: bytes
    out: bytes
    length: int
    body: int
    size: int


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """``lines``: the status line and the replica's headers for the client, but for Content-Length; ``ours``: our own
    headers in its answers to those who did not queue."""

    status: int
    lines: bytes
    ours: bytes

    def whole(self, length: int | None, body: int) -> WholeAnswer:
        length = length or 0
        out = b"%b%bContent-Length: %d\r\n\r\n" % (self.lines, self.ours, length)
        return WholeAnswer(self.status, self.lines, out, length, body, body + length)


class Memory(Generic[W]):
    """Heads by their bytes. What is full is emptied, since what matters in it is back after one message."""

    __slots__ = ("_heads", "_lengths")

    def __init__(self) -> None:
        self._heads: dict[bytes, Known[W]] = {}
        self._lengths: dict[bytes, W] = {}

    def __len__(self) -> int:
        return len(self._heads) + len(self._lengths)

    def find(self, data: bytes) -> W | None:
        """``data`` as one whole message with a head that is known."""
        end = data.find(b"\r\n\r\n", 0, _LONGEST)
        found = self._lengths.get(data[: end + 4])
        if found is None:
            return self._find(data, end)
        return found if found.size == len(data) else None

    def learn(self, key: bytes, known: Known[W]) -> None:
        """Remember a head by the key of a message that had it."""
        if len(self._heads) >= _REMEMBERED:
            self._heads.clear()
        self._heads[key] = known

    def _find(self, data: bytes, end: int) -> W | None:
        message = _whole(data, end)
        if message is None:
            return None
        key, length, body = message
        known = self._heads.get(key)
        if known is None:
            return None
        if len(self._lengths) >= _LENGTHS:
            self._lengths.clear()
        found = self._lengths[data[:body]] = known.whole(length, body)
        return found


def whole(data: bytes) -> Message | None:
    """``data`` as one whole message, if it can be told from its head alone that it is one."""
    return _whole(data, data.find(b"\r\n\r\n", 0, _LONGEST))


def _whole(data: bytes, end: int) -> Message | None:
    if end < 0:
        return None
    at = data.find(b"\r\nContent-Length: ", 0, end)
    if at < 0:
        at = data.find(b"\r\ncontent-length: ", 0, end)
        if at < 0:
            return (data[:end], None, end + 4) if end + 4 == len(data) else None
    start = at + 18
    stop = data.find(b"\r", start)
    digits = data[start:stop]
    if stop - start > 9 or not digits.isdigit():
        return None
    length = int(digits)
    if end + 4 + length != len(data):
        return None
    return data[:start] + data[stop:end], length, end + 4


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
