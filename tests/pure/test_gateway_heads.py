"""How large a request's head may be, however it comes, and how little of it is kept."""

from __future__ import annotations

import hashlib
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from modelworks.gateway import heads
from modelworks.gateway.auth import TokenDigests
from modelworks.gateway.client import Request
from modelworks.gateway.direct import Direct
from modelworks.gateway.heads import RequestHead, read_request
from modelworks.gateway.known import KnownRequest, Repeated
from modelworks.gateway.limits import Limits
from modelworks.gateway.protocol import ClientConnection
from modelworks.gateway.straight import Straight

LIMITS = Limits(head=600)


class Healthy:
    """Answers every request that may come in."""

    limits = LIMITS
    draining = False

    def __init__(self) -> None:
        self.clients: set[ClientConnection] = set()

    def now(self) -> float:
        return 0.0

    def open(self, client: ClientConnection, head: RequestHead) -> Request:
        return Direct(client, head, None, self.limits.discard)

    def known(self, client: ClientConnection, head: RequestHead) -> KnownRequest | None:
        return None

    def repeat(self, client: ClientConnection, straight: Straight, known: Repeated, data: bytes) -> bool:
        return False


class Wire:
    """The client's end: what has been answered."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> None:
        return None

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def head(padding: int, lines: int) -> bytes:
    """A whole request with so many bytes of padding in so many of its headers."""
    padded = b"".join(b"A%d: %b\r\n" % (i, b"a" * (padding // lines)) for i in range(lines))
    return b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + padded + b"\r\n"


small = st.builds(head, st.integers(0, 400), st.integers(1, 5))
large = st.builds(head, st.integers(700, 3000), st.integers(1, 5))


@given(st.lists(small, max_size=4), st.lists(large, max_size=1), st.lists(st.integers(1, 900), max_size=12))
def test_a_head_may_be_so_large_in_whatever_reads_it_comes(
    first: list[bytes], last: list[bytes], reads: list[int]
) -> None:
    wire = Wire()
    client = ClientConnection(Healthy())
    client.connection_made(wire)  # type: ignore[arg-type]
    data = b"".join((*first, *last))
    for size in (*reads, len(data)):
        if data:
            client.data_received(data[:size])
        data = data[size:]
    assert wire.written.count(b"HTTP/1.1 200 ") == len(first)
    assert wire.written.count(b"HTTP/1.1 431 ") == len(last)


def test_a_head_that_has_no_end_is_refused_in_its_first_read() -> None:
    wire = Wire()
    client = ClientConnection(Healthy())
    client.connection_made(wire)  # type: ignore[arg-type]
    client.data_received(b"GET /healthz HTTP/1.1\r\nA: " + b"a" * 700)
    assert b"HTTP/1.1 431 " in wire.written


def test_names_and_values_of_any_length_are_read_and_the_short_ones_kept() -> None:
    names = cast("dict[bytes, int]", heads._REQUEST_NAMES)
    digests = TokenDigests()
    limits = Limits(head=1 << 20)
    for i in range(300):
        long = b"%d" % i + b"a" * 10_000
        found = read_request(b"GET", b"/", "1.1", [(b"Host", b"h"), (long, b"x"), (b"X-Mw-" + long, b"x")], limits)
        assert isinstance(found, RequestHead)
        assert found.lines == [long, b": ", b"x", b"\r\n"]
        assert digests.digest(long) == hashlib.sha256(long).digest()
    assert max(map(len, names)) <= 64
    assert len(digests) == 0
