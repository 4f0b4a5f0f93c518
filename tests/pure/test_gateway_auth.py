from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.gateway.auth import TokenDigests, allowed, token_of


def sha(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


@pytest.mark.parametrize("value", [b"t0ken", b"Bearer t0ken", b"bearer t0ken", b"BEARER   t0ken ", b" t0ken\t"])
def test_the_ways_to_send_a_token(value: bytes) -> None:
    assert token_of(value) == b"t0ken"
    assert allowed(TokenDigests().digest(value), [sha(b"other"), sha(b"t0ken")])


@pytest.mark.parametrize("value", [b"", b"Bearer ", b"Basic t0ken", b"t0ken2", b"Bearer t0ke"])
def test_what_is_not_the_token(value: bytes) -> None:
    assert not allowed(TokenDigests().digest(value), [sha(b"t0ken")])
    assert not allowed(TokenDigests().digest(value), [])


@given(st.lists(st.binary(max_size=3), max_size=50))
def test_a_remembered_digest_is_the_right_one(values: list[bytes]) -> None:
    digests = TokenDigests()
    for value in values:
        assert digests.digest(value) == sha(token_of(value))


def test_the_memory_is_bounded() -> None:
    digests = TokenDigests()
    for i in range(5000):
        digests.digest(b"%d" % i)
    assert len(digests) <= 4096
