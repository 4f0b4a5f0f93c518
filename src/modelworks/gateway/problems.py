"""Refusals of the gateway as RFC 9457 problem JSON: the same body as ``kernel.errors``, with the statuses of a proxy.

400 bad-request      404 not-found        408 timeout         413 too-large        414 uri-too-long
401 unauthorized     429 limit-exceeded   431 head-too-large  502 upstream-failed  503 unavailable
505 http-version
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

REASONS: dict[int, bytes] = {int(s): s.phrase.encode() for s in HTTPStatus}
STATUS_LINES: dict[int, bytes] = {code: b"HTTP/1.1 %d %b\r\n" % (code, phrase) for code, phrase in REASONS.items()}


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal. ``close`` ends the connection: what follows on it cannot be trusted."""

    status: int
    code: str
    detail: str
    remedy: str | None = None
    retry_after: int | None = None
    close: bool = False

    def body(self) -> bytes:
        """The problem document."""
        document: dict[str, object] = {
            "type": f"https://modelworks.dev/problems/{self.code}",
            "title": REASONS[self.status].decode(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.remedy:
            document["remedy"] = self.remedy
        if self.retry_after is not None:
            document["retry_after"] = self.retry_after
        return json.dumps(document).encode()

    def response(self, *, keep_alive: bool, head_only: bool = False) -> bytes:
        """The whole HTTP/1.1 response."""
        body = self.body()
        lines = [
            STATUS_LINES[self.status],
            b"Server: modelworks\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n",
            b"Content-Length: %d\r\n" % len(body),
        ]
        if self.status == 401:
            lines.append(b'WWW-Authenticate: Bearer realm="modelworks"\r\n')
        if self.retry_after is not None:
            lines.append(b"Retry-After: %d\r\n" % self.retry_after)
        if not keep_alive:
            lines.append(b"Connection: close\r\n")
        lines.append(b"\r\n")
        if not head_only:
            lines.append(body)
        return b"".join(lines)


def bad_request(detail: str) -> Problem:
    """The bytes are not one unambiguous HTTP/1 request."""
    return Problem(400, "bad-request", detail, close=True)


def unauthorized(detail: str, remedy: str) -> Problem:
    """No valid token came with the request."""
    return Problem(401, "unauthorized", detail, remedy=remedy)


HEAD_TOO_LARGE = Problem(431, "head-too-large", "The request's headers are too large.", close=True)
TARGET_TOO_LONG = Problem(414, "uri-too-long", "The request's path and query are too long.", close=True)
SLOW_CLIENT = Problem(408, "timeout", "The request did not arrive in time.", close=True)
UNAUTHORIZED = unauthorized(
    "This service needs its token.",
    remedy="Send `Authorization: Bearer <token>`; `mw service token <name>` shows it.",
)
NO_SUCH_PATH = Problem(
    404, "not-found", "Nothing is served here.", remedy="Services are at /api/predict/<service>, the API at /api/v1."
)
NO_SUCH_SERVICE = Problem(
    404, "not-found", "There is no such service.", remedy="`mw service list` shows the services and their endpoints."
)
COURIER_DOWN = Problem(
    503,
    "unavailable",
    "Asynchronous requests cannot be taken at this moment.",
    remedy="It is restarted by itself: repeat the call in a moment. `mw status` shows the processes.",
    retry_after=1,
)
TRACKING_DOWN = Problem(
    503,
    "unavailable",
    "There is no tracking server here, or it cannot start.",
    remedy="`mw status` shows whether there is one, logs/tracking.log why it does not start; "
    "it comes with `pip install 'modelworks[server,tracking]'`.",
    retry_after=2,
)
CONTROLLER_DOWN = Problem(
    503,
    "unavailable",
    "The controller does not answer; services go on answering meanwhile.",
    remedy="It is restarted by itself: repeat the call in a moment. `mw status` shows the processes.",
    retry_after=1,
)
