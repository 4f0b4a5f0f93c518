"""Service tokens: only their SHA-256 is known here, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

_CACHED = 4096
_LONGEST = 512  # bytes of a value that is kept: what is kept came from whoever reaches the port


class TokenDigests:
    """``Authorization`` value → SHA-256 of the token in it, for the last few thousand values.

    Knowing a digest saves hashing only: each request is still compared with the tokens that are valid now.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def digest(self, authorization: bytes) -> bytes:
        """The digest of a raw token or ``Bearer <token>``."""
        known = self._known.get(authorization)
        if known is not None:
            return known
        digest = hashlib.sha256(token_of(authorization)).digest()
        if len(authorization) <= _LONGEST:
            if len(self._known) >= _CACHED:
                del self._known[next(iter(self._known))]
            self._known[authorization] = digest
        return digest

    def __len__(self) -> int:
        return len(self._known)


def token_of(authorization: bytes) -> bytes:
    """The token in a header's value; the scheme's name is case-insensitive and may be left out."""
    value = authorization.strip(b" \t")
    if value[:7].lower() == b"bearer ":
        return value[7:].lstrip(b" \t")
    return value


def allowed(digest: bytes, tokens: Iterable[bytes]) -> bool:
    """Whether ``digest`` is among ``tokens``; takes the same time whichever matches."""
    found = False
    for token in tokens:
        found |= hmac.compare_digest(digest, token)
    return found
