"""Every failure as RFC 9457 problem JSON, and how the OpenAPI document tells of it."""

from __future__ import annotations

import secrets
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from modelworks.kernel.errors import FieldError, Invalid, ModelworksError

MEDIA_TYPE = "application/problem+json"

_log = structlog.get_logger(__name__)


class ProblemField(BaseModel):
    """One wrong field."""

    path: str = Field(description="Dotted path, such as spec.replicas.")
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details. ``remedy`` says what to do; ``errors`` names every wrong field."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    remedy: str | None = None
    errors: list[ProblemField] | None = None
    retry_after: float | None = None
    request_id: str | None = Field(default=None, description="Where the log of the controller tells more.")


DESCRIPTIONS = {
    400: "The request is malformed.",
    401: "No API key, or one that is not known.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    405: "The path has no such method.",
    409: "The state of the thing does not allow it.",
    413: "The body is too large.",
    422: "A field is wrong; `errors` names it.",
    429: "A limit is reached; `Retry-After` says when to come back.",
    500: "The platform failed; `request_id` is in its log.",
    503: "Something the answer needs cannot be reached now.",
}


def problem_response(error: ModelworksError, **extra: Any) -> Response:
    """The answer that tells of an error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.problem() | extra, error.status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Let every failure of the app end as a problem."""
    app.add_exception_handler(ModelworksError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(Exception, _unexpected)


def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, ModelworksError)
    if error.status < 500 or error.status in (503, 504):
        return problem_response(error)
    return _unexpected(request, error)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = tuple(_field(item) for item in error.errors())
    places = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
    return problem_response(
        Invalid(f"the {' and '.join(sorted(places)) or 'request'} is not as expected", fields=fields)
    )


def _field(item: dict[str, Any]) -> FieldError:
    location = [str(part) for part in item["loc"]]
    path = ".".join(location[1:]) or (location[0] if location else "")
    if item["type"] == "json_invalid":
        return FieldError("", f"not JSON: {item.get('ctx', {}).get('error', item['msg'])}")
    message = "unknown field" if item["type"] == "extra_forbidden" else str(item["msg"])
    return FieldError(path, message.removeprefix("Value error, "))


def _http(request: Request, error: Exception) -> Response:
    """What Starlette answers itself: no such path, no such method, a body it cannot read."""
    assert isinstance(error, HTTPException)
    titles = {404: ("not-found", "Not found"), 405: ("method-not-allowed", "Method not allowed")}
    code, title = titles.get(error.status_code, ("bad-request", "Bad request"))
    detail = {
        404: f"there is nothing at {request.url.path}",
        405: f"{request.url.path} has no method {request.method}",
    }.get(error.status_code, str(error.detail))
    body = {
        "type": f"https://modelworks.dev/problems/{code}",
        "title": title,
        "status": error.status_code,
        "detail": detail,
        "code": code,
    }
    return JSONResponse(body, error.status_code, headers=error.headers, media_type=MEDIA_TYPE)


def _unstorable(request: Request, error: Exception) -> Response:
    """PostgreSQL refused a value, such as a number beyond its column: the caller's, since ours are checked."""
    _log.warning("request.unstorable", method=request.method, path=request.url.path, error=str(error))
    return problem_response(Invalid("a value of the request cannot be stored"))


def _unexpected(request: Request, error: Exception) -> Response:
    request_id = secrets.token_hex(8)
    _log.error("request.failed", request_id=request_id, method=request.method, path=request.url.path, exc_info=error)
    told = (
        error
        if isinstance(error, ModelworksError)
        else ModelworksError(
            "the platform failed at this request",
            remedy=f"the controller's log holds the reason, at request {request_id}",
        )
    )
    return problem_response(told, request_id=request_id)
