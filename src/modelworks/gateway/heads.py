"""Request and response heads: what is read from them, and what is passed on (RFC 9110 §7, RFC 9112)."""

from __future__ import annotations

from modelworks.gateway.limits import Limits
from modelworks.gateway.problems import HEAD_TOO_LARGE, TARGET_TOO_LONG, Problem, bad_request

Headers = list[tuple[bytes, bytes]]


# What becomes of a header, by its name. Plain integers: this is looked up for each header of each request.
PASS, DROP, HOST, AUTHORIZATION, LENGTH, ENCODING, CONNECTION, EXPECT, UPGRADE, TIMEOUT = range(10)

_SPECIAL = {
    b"host": HOST,
    b"authorization": AUTHORIZATION,
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"upgrade": UPGRADE,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authorization": DROP,
    b"proxy-authenticate": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"http2-settings": DROP,
    b"forwarded": DROP,
    b"x-forwarded-for": DROP,
    b"x-forwarded-host": DROP,
    b"x-forwarded-proto": DROP,
    b"x-real-ip": DROP,
    b"x-mw-timeout-ms": TIMEOUT,
}
_OURS_IN_ANSWERS = {b"server", b"x-mw-replica", b"x-mw-revision", b"x-mw-queue-ms", b"x-mw-hint"}
_REMEMBERED = 2048
_LONGEST_NAME = 64  # bytes; of longer ones a client could have us keep many megabytes, before it has shown a token


class _Names(dict[bytes, int]):
    """Header name as spelled → its treatment; computed once for a spelling, and forgotten when there are too many."""

    def __init__(self, *, request: bool) -> None:
        super().__init__()
        self._request = request

    def __missing__(self, name: bytes) -> int:
        kind = self._classify(name.lower())
        if len(name) <= _LONGEST_NAME:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[name] = kind
        return kind

    def _classify(self, name: bytes) -> int:
        if self._request:
            # WSGI and CGI servers read `_` and `-` as one: `X_Mw_Key` must not pass for `X-Mw-Key`.
            if name == b"x-mw-timeout-ms":
                return TIMEOUT
            if name == b"x-mw-webhook":
                return PASS  # the courier's; nobody else reads it
            plain = name.replace(b"_", b"-")
            if plain.startswith(b"x-mw-") or (plain != name and plain in _SPECIAL):
                return DROP
            return _SPECIAL.get(name, PASS)
        if name in _OURS_IN_ANSWERS:
            return DROP
        kind = _SPECIAL.get(name, PASS)
        return (
            kind
            if kind in (LENGTH, ENCODING, CONNECTION, UPGRADE)
            else (DROP if name in (b"keep-alive", b"proxy-connection", b"te", b"trailer") else PASS)
        )


_REQUEST_NAMES = _Names(request=True)
_RESPONSE_NAMES = _Names(request=False)


class RequestHead:
    """One request's head. ``lines``: the headers that pass, four parts each; ``length``: Content-Length, if any;
    ``timeout``: in how many seconds its answer is no longer wanted, if it says so."""

    __slots__ = (
        "authorization", "chunked", "expects", "host", "http11", "keep_alive", "length", "lines", "method", "target",
        "timeout", "upgrade",
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
        self.timeout: float | None = None
        self.lines: list[bytes] = []

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    def plain(self, target: bytes, extra: bytes) -> bytes:
        """The head for the upstream without its framing: ``target`` as its path, ``extra`` header lines of ours."""
        return b"".join(
            (self.method, b" ", target, b" HTTP/1.1\r\nHost: ", self.host or b"", b"\r\n", *self.lines, extra)
        )

    def write(self, target: bytes, extra: bytes, *, authorization: bool) -> bytes:
        """The whole head for the upstream."""
        parts = [self.plain(target, extra)]
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
    for name, value in headers:
        kind = names[name]
        if kind == PASS:
            lines += (name, b": ", value, b"\r\n")
        elif kind == LENGTH:
            if head.length is not None or not value.isdigit() or len(value) > 18:
                return bad_request("Content-Length is not one number.")
            head.length = int(value)
        elif kind == HOST:
            if head.host is not None:
                return bad_request("More than one Host header.")
            head.host = value
        elif kind == AUTHORIZATION:
            if head.authorization is not None:
                return bad_request("More than one Authorization header.")
            head.authorization = value
        elif kind == CONNECTION:
            listed = value if listed is None else listed + b"," + value
        elif kind != DROP:
            problem = _read_rare(head, kind, value)
            if problem is not None:
                return problem
    if head.host is None and head.http11:
        return bad_request("No Host header.")
    if head.chunked and (head.length is not None or not head.http11):
        return bad_request("Transfer-Encoding with Content-Length, or in HTTP/1.0.")
    if listed is not None:
        _read_connection(head, listed)
    if head.upgrade is not None and (listed is None or head.has_body):
        if listed is not None:
            return bad_request("An Upgrade request with a body.")
        head.upgrade = None
    return head if target[:1] == b"/" else _read_target(head)


def _read_rare(head: RequestHead, kind: int, value: bytes) -> Problem | None:
    value = value.strip(b" \t")
    if kind == ENCODING:
        if head.chunked or value.lower() != b"chunked":
            return bad_request("Only `Transfer-Encoding: chunked`, once, is understood.")
        head.chunked = True
    elif kind == EXPECT:
        if value.lower() != b"100-continue":
            return Problem(417, "expectation-failed", "Only `Expect: 100-continue` is understood.", close=True)
        head.expects = head.http11
    elif kind == TIMEOUT:
        if head.timeout is not None or not value.isdigit() or len(value) > 9:
            return Problem(400, "bad-request", "X-Mw-Timeout-Ms is not one whole number of milliseconds.")
        head.timeout = int(value) / 1000
    elif kind == UPGRADE:
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
        head.lines = without(head.lines, hop_by_hop)


def _read_target(head: RequestHead) -> RequestHead | Problem:
    """Make an absolute target (``GET http://host/path``) plain; its authority replaces Host (RFC 9112 §3.2.2)."""
    target = head.target
    if target[:7].lower() != b"http://":
        return bad_request("The request target is not a path.")
    authority, slash, path = target[7:].partition(b"/")
    if not slash or b"?" in authority or b"@" in authority:
        return bad_request("The request target is not a path.")
    head.host = authority
    head.target = b"/" + path
    return head


def without(lines: list[bytes], names: set[bytes]) -> list[bytes]:
    """``lines`` (name, colon, value, end; one header after another) without the headers of these names."""
    kept: list[bytes] = []
    for i in range(0, len(lines), 4):
        if lines[i].lower() not in names:
            kept += lines[i : i + 4]
    return kept


def split_lines(text: bytes) -> list[bytes]:
    """A status line and headers as bytes → the headers, four parts each."""
    lines: list[bytes] = []
    for line in text.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b": ")
        if colon:
            lines += (name, colon, value, b"\r\n")
    return lines


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
        if kind == PASS:
            lines += (name, b": ", value, b"\r\n")
        elif kind == LENGTH:
            if head.length is not None or not value.isdigit():
                return None
            head.length = int(value)
        elif kind == ENCODING:
            if value.strip(b" \t").lower() != b"chunked":
                return None
            head.chunked = True
        elif kind == CONNECTION:
            listed = value if listed is None else listed + b"," + value
        elif kind == UPGRADE:
            head.upgrade = value
    if head.chunked and head.length is not None:
        return None
    if listed is not None:
        tokens = {t.strip(b" \t") for t in listed.lower().split(b",")} - {b"close", b"keep-alive", b"upgrade", b""}
        if tokens:
            head.lines = without(lines, tokens)
    return head
