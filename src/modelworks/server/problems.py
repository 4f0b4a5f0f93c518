"""What a caller can do wrong, and how it is told: RFC 9457 problem JSON."""

from __future__ import annotations

import sys
import traceback

import orjson

from modelworks.server.messages import Answer


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
            # What the Open Inference Protocol calls the same: its clients look for nothing else.
            "error": self.detail,
        }
        if self.retry_after is not None:
            document["retry_after"] = self.retry_after
        return orjson.dumps(document)


class BadInput(Problem):
    """The body is not what the model takes."""

    def __init__(self, detail: str, *, status: int = 422) -> None:
        super().__init__(status, "invalid", detail)


def problem_of(error: BaseException) -> Problem:
    """Of whatever a model or a user's code raises: its text is for the caller, its traceback for the log."""
    if isinstance(error, Problem):
        return error
    # One write, with a last line by which this is told from what ends a process (``agent/lastwords.py``).
    told = "".join(traceback.format_exception(error))
    sys.stderr.write(f"{told}modelworks: a request failed for this reason; the server goes on\n")
    return Problem(500, "model-failed", f"{type(error).__name__}: {error}")


def answer_of(error: BaseException) -> Answer:
    problem = problem_of(error)
    retry = problem.retry_after
    headers = (("Retry-After", str(max(1, round(retry)))),) if retry is not None else ()
    return Answer(problem.body(), problem.status, "application/problem+json", headers)


REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
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
    501: "Not Implemented",
    503: "Service Unavailable",
}
