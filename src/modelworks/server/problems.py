"""What a caller can do wrong, and how it is told: RFC 9457 problem JSON."""

from __future__ import annotations

import orjson


class Problem(Exception):
    """An answer that is not a prediction. ``detail`` is one sentence for the caller."""

    def __init__(self, status: int, code: str, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after

    def body(self) -> bytes:
        document: dict[str, object] = {
            "type": f"https://modelworks.dev/problems/{self.code}",
            "title": REASONS.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.retry_after is not None:
            document["retry_after"] = self.retry_after
        return orjson.dumps(document)


class BadInput(Problem):
    """The body is not what the model takes."""

    def __init__(self, detail: str, *, status: int = 422) -> None:
        super().__init__(status, "invalid", detail)


REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
