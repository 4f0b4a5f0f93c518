"""Signed requests: ``Authorization: EAS <signature>``, as the cloud's prediction clients send it.

The signature is the base64 of the HMAC-SHA1, keyed by the service's token, of five lines: method, Content-MD5,
Content-Type, Date, path. It covers the body by Content-MD5 only, so the body is held against that as it passes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from modelworks.cipher import Cipher, open_labelled
from modelworks.gateway.exchange import Exchange
from modelworks.gateway.heads import RequestHead
from modelworks.gateway.problems import Problem, unauthorized
from modelworks.gateway.table import Route
from modelworks.kernel.errors import SetupFailed

SKEW = 15 * 60
_SCHEME = b"eas "
_CACHED = 4096
_NO_BODY = hashlib.md5(usedforsecurity=False).digest()
log = logging.getLogger("modelworks.gateway.signature")

WRONG = unauthorized(
    "The signature is not one of this service's token.",
    remedy="Sign method, Content-MD5, Content-Type, Date and path with the token that `mw service token <name>` shows.",
)
LATE = unauthorized(
    f"The signature's Date is more than {SKEW // 60} minutes off.", remedy="Set the client's clock, and sign again."
)
INCOMPLETE = unauthorized(
    "A signature needs one Date, and one Content-MD5 of the body.", remedy="Send both headers, or the token itself."
)
OTHER_BODY = Problem(
    400, "bad-request", "The body is not the one of Content-MD5.", remedy="Send the body that was signed.", close=True
)


class Permit(NamedTuple):
    """Whether a request may enter: ``problem`` says why not; ``md5`` is what its body has to have, if it is signed."""

    problem: Problem | None
    md5: bytes | None = None


def is_signed(authorization: bytes) -> bool:
    """Whether an ``Authorization`` holds a signature rather than a token."""
    return authorization[:4].lower() == _SCHEME


class Signatures:
    """Verifies signatures with the services' tokens, which are opened when they are first needed.

    ``cipher`` loads the master key; None where there is none, and no signature is right.
    """

    def __init__(self, cipher: Callable[[], Cipher] | None = None, clock: Callable[[], float] = time.time) -> None:
        self._load = cipher
        self._cipher: Cipher | None = None
        self._clock = clock
        self._opened: dict[tuple[str, bytes], bytes | None] = {}

    def permit(self, head: RequestHead, route: Route) -> Permit:
        """Judge a request whose ``Authorization`` is a signature."""
        found = _headers(head, (b"date", b"content-md5", b"content-type"))
        date, md5, kind = (found.get(name) for name in (b"date", b"content-md5", b"content-type"))
        body = _digest(md5) if md5 is not None else None
        if date is None or (md5 is None and head.has_body) or (md5 is not None and body is None):
            return Permit(INCOMPLETE)
        now = self._clock()
        signed_at = _unix(date)
        # The cloud's Python client writes its local time and calls it GMT.
        if signed_at is None or min(abs(signed_at - now), abs(signed_at - now - time.localtime(now).tm_gmtoff)) > SKEW:
            return Permit(LATE)
        given = (head.authorization or b"")[len(_SCHEME) :].strip(b" \t")
        path, mark, _ = head.target.partition(b"?")
        right = False
        for resource in (path, head.target) if mark else (path,):
            text = b"\n".join((head.method, md5 or b"", kind or b"", date, resource)).strip()
            for token in self._tokens(route):
                right |= hmac.compare_digest(base64.b64encode(hmac.digest(token, text, "sha1")), given)
        return Permit(None, body or _NO_BODY) if right else Permit(WRONG)

    def _tokens(self, route: Route) -> Iterable[bytes]:
        for sealed in route.sealed:
            key = (route.uid, sealed)
            if key not in self._opened:
                if len(self._opened) >= _CACHED:
                    self._opened.clear()
                self._opened[key] = self._open(route, sealed)
            if (token := self._opened[key]) is not None:
                yield token

    def _open(self, route: Route, sealed: bytes) -> bytes | None:
        if self._load is None:
            return None
        try:
            if self._cipher is None:
                self._cipher = self._load()
            return open_labelled(self._cipher, sealed, route.uid).encode()
        except (SetupFailed, OSError) as error:
            log.error("signatures for %s cannot be checked: %s", route.service, error)
            return None


class SignedExchange(Exchange):
    """An exchange whose body is held against a digest; the last of a wrong one never reaches the replica."""

    __slots__ = ("_hash", "_md5")

    def expect(self, md5: bytes) -> None:
        """The body's MD5, in 16 bytes. Before anything of it comes."""
        self._md5 = md5
        self._hash = hashlib.md5(usedforsecurity=False)

    def request_body(self, data: bytes) -> None:
        self._hash.update(data)
        super().request_body(data)

    def request_end(self) -> None:
        if hmac.compare_digest(self._hash.digest(), self._md5):
            super().request_end()
        else:
            self.request_complete = True
            self.fail(OTHER_BODY)


def _headers(head: RequestHead, names: tuple[bytes, ...]) -> dict[bytes, bytes]:
    """The values of headers that are there once; one that is repeated counts as absent."""
    found: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for i in range(0, len(head.lines), 4):
        name = head.lines[i].lower()
        if name in names:
            if name in found:
                repeated.add(name)
            found[name] = head.lines[i + 2].strip(b" \t")
    return {name: value for name, value in found.items() if name not in repeated}


def _digest(value: bytes) -> bytes | None:
    """Content-MD5 in hexadecimal, as these clients write it, or in base64 (RFC 1864)."""
    try:
        digest = bytes.fromhex(value.decode("ascii")) if len(value) == 32 else base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return None
    return digest if len(digest) == 16 else None


def _unix(date: bytes) -> float | None:
    try:
        return parsedate_to_datetime(date.decode("ascii")).timestamp()
    except (ValueError, OverflowError):
        return None
