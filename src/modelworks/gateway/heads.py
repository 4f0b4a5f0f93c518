"""Request and response heads: what is read from them, and what is passed on (RFC 9110 §7, RFC 9112)."""

from __future__ import annotations

from enum import IntEnum

from modelworks.gateway.limits import Limits
from modelworks.gateway.problems import HEAD_TOO_LARGE, TARGET_TOO_LONG, Problem, bad_request

Headers = list[tuple[bytes, bytes]]


class Header(IntEnum):
    """What the gateway does with a header by its name."""

    PASS = 0
    DROP = 1
    HOST = 2
    AUTHORIZATION = 3
    LENGTH = 4
    ENCODING = 5
    CONNECTION = 6
    EXPECT = 7
    UPGRADE = 8


_SPECIAL = {
    b"host": Header.HOST,
    b"authorization": Header.AUTHORIZATION,
    b"content-length": Header.LENGTH,
    b"transfer-encoding": Header.ENCODING,
    b"connection": Header.CONNECTION,
    b"expect": Header.EXPECT,
    b"upgrade": Header.UPGRADE,
    b"keep-alive": Header.DROP,
    b"proxy-connection": Header.DROP,
    b"proxy-authorization": Header.DROP,
    b"proxy-authenticate": Header.DROP,
    b"te": Header.DROP,
    b"trailer": Header.DROP,
    b"http2-settings": Header.DROP,
    b"forwarded": Header.DROP,
    b"x-forwarded-for": Header.DROP,
    b"x-forwarded-host": Header.DROP,
    b"x-forwarded-proto": Header.DROP,
    b"x-real-ip": Header.DROP,
}
_OURS_IN_ANSWERS = {b"server", b"x-mw-replica", b"x-mw-revision", b"x-mw-queue-ms"}
_REMEMBERED = 2048


class _Names(dict[bytes, Header]):
    """Header name as spelled → its treatment; computed once for a spelling, and forgotten when there are too many."""

    def __init__(self, *, request: bool) -> None:
        super().__init__()
        self._request = request

    def __missing__(self, name: bytes) -> Header:
        kind = self._classify(name.lower())
        if len(self) >= _REMEMBERED:
            self.clear()
        self[name] = kind
        return kind

    def _classify(self, name: bytes) -> Header:
        if self._request:
            # WSGI and CGI servers read `_` and `-` as one: `X_Mw_Key` must not pass for `X-Mw-Key`.
            plain = name.replace(b"_", b"-")
            if plain.startswith(b"x-mw-") or (plain != name and plain in _SPECIAL):
                return Header.DROP
            return _SPECIAL.get(name, Header.PASS)
        if name in _OURS_IN_ANSWERS:
            return Header.DROP
        kind = _SPECIAL.get(name, Header.PASS)
        return (
            kind
            if kind in (Header.LENGTH, Header.ENCODING, Header.CONNECTION, Header.UPGRADE)
            else (Header.DROP if name in (b"keep-alive", b"proxy-connection", b"te", b"trailer") else Header.PASS)
        )


_REQUEST_NAMES = _Names(request=True)
_RESPONSE_NAMES = _Names(request=False)


class RequestHead:
    """One request's head. ``lines`` are the headers that pass, ready to send; ``length``: Content-Length, if any."""

    __slots__ = (
        "authorization", "chunked", "expects", "host", "http11", "keep_alive", "length", "lines", "method", "target",
        "upgrade",
    )  # fmt: skip

    def __init__(self, method: bytes, target: bytes, http11: bool) -> None:
        self.method = method
        self.target = target
        self.http11 = http11
        self.keep_alive = http11
        self.host: bytes | None = None
        self.authorization: bytes | None = None
        self.length: int | None = None
        self.chunked = False
        self.expects = False
        self.upgrade: bytes | None = None
        self.lines: list[bytes] = []

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    def write(self, target: bytes, extra: bytes, *, authorization: bool) -> bytes:
        """The head for the upstream: ``target`` as its path, ``extra`` header lines of ours."""
        parts = [self.method, b" ", target, b" HTTP/1.1\r\nHost: ", self.host or b"", b"\r\n", *self.lines, extra]
        if self.length is not None:
            parts.append(b"Content-Length: %d\r\n" % self.length)
        elif self.chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        if authorization and self.authorization is not None:
            parts += (b"Authorization: ", self.authorization, b"\r\n")
        if self.upgrade is not None:
            parts += (b"Connection: Upgrade\r\nUpgrade: ", self.upgrade, b"\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def read_request(method: bytes, target: bytes, version: str, headers: Headers, limits: Limits) -> RequestHead | Problem:
    """Check what the parser (strict on bytes) leaves open, and sort the headers."""
    if version not in ("1.1", "1.0"):
        return Problem(505, "http-version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.", close=True)
    if len(target) > limits.target:
        return TARGET_TOO_LONG
    if len(headers) > limits.headers:
        return HEAD_TOO_LARGE
    head = RequestHead(method, target, version == "1.1")
    lines = head.lines
    names = _REQUEST_NAMES
    listed: bytes | None = None
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
        kind = names[name]
        if kind is Header.PASS:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif kind is Header.HOST:
            if head.host is not None:
                return bad_request("More than one Host header.")
            head.host = value
        elif kind is Header.AUTHORIZATION:
            if head.authorization is not None:
                return bad_request("More than one Authorization header.")
            head.authorization = value
        elif kind is Header.CONNECTION:
            listed = value if listed is None else listed + b"," + value
        elif kind is not Header.DROP:
            problem = _read_framing(head, kind, value)
            if problem is not None:
                return problem
    if size > limits.head:
        return HEAD_TOO_LARGE
    if head.host is None and head.http11:
        return bad_request("No Host header.")
    if head.chunked and (head.length is not None or not head.http11):
        return bad_request("Transfer-Encoding with Content-Length, or in HTTP/1.0.")
    if listed is None:
        head.upgrade = None
    else:
        _read_connection(head, listed)
    if head.upgrade is not None and head.has_body:
        return bad_request("An Upgrade request with a body.")
    return _read_target(head)


def _read_framing(head: RequestHead, kind: Header, value: bytes) -> Problem | None:
    value = value.strip(b" \t")
    if kind is Header.LENGTH:
        if head.length is not None or not (value.isdigit() and len(value) <= 18):
            return bad_request("Content-Length is not one number.")
        head.length = int(value)
    elif kind is Header.ENCODING:
        if head.chunked or value.lower() != b"chunked":
            return bad_request("Only `Transfer-Encoding: chunked`, once, is understood.")
        head.chunked = True
    elif kind is Header.EXPECT:
        if value.lower() != b"100-continue":
            return Problem(417, "expectation-failed", "Only `Expect: 100-continue` is understood.", close=True)
        head.expects = head.http11
    elif kind is Header.UPGRADE:
        # HTTP/2 in the clear would carry requests past every check made here.
        head.upgrade = None if b"h2c" in value.lower() else value
    return None


def _read_connection(head: RequestHead, listed: bytes) -> None:
    tokens = {token.strip(b" \t") for token in listed.lower().split(b",")}
    if b"close" in tokens:
        head.keep_alive = False
    elif b"keep-alive" in tokens:
        head.keep_alive = True
    if b"upgrade" in tokens:
        # Either the connection becomes a tunnel, or what follows is in a protocol that nobody agreed to.
        head.keep_alive = False
    else:
        head.upgrade = None
    hop_by_hop = tokens - {b"close", b"keep-alive", b"upgrade", b""}
    if hop_by_hop:
        head.lines = [line for line in head.lines if line[: line.index(b":")].lower() not in hop_by_hop]


def _read_target(head: RequestHead) -> RequestHead | Problem:
    """Make an absolute target (``GET http://host/path``) plain; its authority replaces Host (RFC 9112 §3.2.2)."""
    target = head.target
    if target[:1] == b"/":
        return head
    if target[:7].lower() != b"http://":
        return bad_request("The request target is not a path.")
    authority, slash, path = target[7:].partition(b"/")
    if not slash or b"?" in authority or b"@" in authority:
        return bad_request("The request target is not a path.")
    head.host = authority
    head.target = b"/" + path
    return head


class ResponseHead:
    """One answer's head: ``length`` is None when the body is chunked or ends with the connection."""

    __slots__ = ("chunked", "length", "lines", "status", "upgrade")

    def __init__(self, status: int) -> None:
        self.status = status
        self.length: int | None = None
        self.chunked = False
        self.upgrade: bytes | None = None
        self.lines: list[bytes] = []

    def bodiless(self, method: bytes) -> bool:
        return method == b"HEAD" or self.status in (204, 304) or self.status < 200


def read_response(status: int, headers: Headers) -> ResponseHead | None:
    """Sort an upstream's headers; None when its framing cannot be trusted."""
    head = ResponseHead(status)
    lines = head.lines
    names = _RESPONSE_NAMES
    listed: bytes | None = None
    for name, value in headers:
        kind = names[name]
        if kind is Header.PASS:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif kind is Header.LENGTH:
            value = value.strip(b" \t")
            if head.length is not None or not value.isdigit():
                return None
            head.length = int(value)
        elif kind is Header.ENCODING:
            if value.strip(b" \t").lower() != b"chunked":
                return None
            head.chunked = True
        elif kind is Header.CONNECTION:
            listed = value if listed is None else listed + b"," + value
        elif kind is Header.UPGRADE:
            head.upgrade = value
    if head.chunked and head.length is not None:
        return None
    if listed is not None:
        tokens = {t.strip(b" \t") for t in listed.lower().split(b",")} - {b"close", b"keep-alive", b"upgrade", b""}
        if tokens:
            head.lines = [line for line in lines if line[: line.index(b":")].lower() not in tokens]
    return head
