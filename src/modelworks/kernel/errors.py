"""Every error a user can meet, and how it is told.

ModelworksError                    500 internal
├── Invalid                        422 invalid              a field of a manifest, query or body; carries the paths
├── Unauthorized                   401 unauthorized         no key, or one that is not known
├── Forbidden                      403 forbidden            a known key without the permission
├── NotFound                       404 not-found
├── Conflict                       409 conflict             the state of the thing does not allow it
├── TooLarge                       413 too-large
├── LimitExceeded                  429 limit-exceeded       says which limit; carries retry_after
├── Unavailable                    503 unavailable          nothing can serve it now; carries retry_after
│   └── PlatformUnreachable        503 platform-unreachable the client found no platform at the address
├── EnvironmentFailed              422 environment-failed   the package resolver's own message
├── WorkloadFailed                 422 workload-failed      a job or replica ended badly; carries its last lines
├── TimedOut                       504 timed-out            what was waited for did not happen in time
└── SetupFailed                    500 setup-failed         `mw up` cannot start: disk, port, permissions

Code, status and title live on the class; the instance says what was wrong, where, and what to do about it. The body is
RFC 9457 problem JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class FieldError:
    """One wrong field: its dotted path (``spec.replicas``) and what is wrong with it."""

    path: str
    message: str


class ModelworksError(Exception):
    """Base of the tree. ``detail`` is one sentence; ``remedy`` says what to do, when there is something to do."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        remedy: str | None = None,
        fields: tuple[FieldError, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.fields = fields
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = self.detail
        for field in self.fields:
            text += f"\n  {field.path}: {field.message}" if field.path else f"\n  {field.message}"
        return text

    def problem(self) -> dict[str, Any]:
        """The RFC 9457 body of this error."""
        body: dict[str, Any] = {
            "type": f"https://modelworks.dev/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.remedy:
            body["remedy"] = self.remedy
        if self.fields:
            body["errors"] = [{"path": f.path, "message": f.message} for f in self.fields]
        if self.retry_after is not None:
            body["retry_after"] = self.retry_after
        return body


class Invalid(ModelworksError):
    code, status, title = "invalid", 422, "Invalid input"


class Unauthorized(ModelworksError):
    code, status, title = "unauthorized", 401, "Unauthorized"


class Forbidden(ModelworksError):
    code, status, title = "forbidden", 403, "Forbidden"


class NotFound(ModelworksError):
    code, status, title = "not-found", 404, "Not found"


class Conflict(ModelworksError):
    code, status, title = "conflict", 409, "Conflict"


class TooLarge(ModelworksError):
    code, status, title = "too-large", 413, "Too large"


class LimitExceeded(ModelworksError):
    code, status, title = "limit-exceeded", 429, "Limit exceeded"


class Unavailable(ModelworksError):
    code, status, title = "unavailable", 503, "Unavailable"


class PlatformUnreachable(Unavailable):
    code, title = "platform-unreachable", "Platform unreachable"


class EnvironmentFailed(ModelworksError):
    code, status, title = "environment-failed", 422, "Environment cannot be built"


class WorkloadFailed(ModelworksError):
    code, status, title = "workload-failed", 422, "Workload failed"


class TimedOut(ModelworksError):
    code, status, title = "timed-out", 504, "Timed out"


class SetupFailed(ModelworksError):
    code, status, title = "setup-failed", 500, "Platform cannot start"


def from_problem(body: dict[str, Any], status: int) -> ModelworksError:
    """Rebuild the error of a problem body on the client's side; an unknown code keeps its status's class."""
    classes = _tree(ModelworksError)
    by_code = {c.code: c for c in classes}
    by_status = {c.status: c for c in reversed(classes)}
    cls = by_code.get(str(body.get("code"))) or by_status.get(status, ModelworksError)
    fields = tuple(
        FieldError(str(e.get("path", "")), str(e.get("message", "")))
        for e in body.get("errors") or ()
        if isinstance(e, dict)
    )
    retry = body.get("retry_after")
    return cls(
        str(body.get("detail") or body.get("title") or f"HTTP {status}"),
        remedy=body.get("remedy"),
        fields=fields,
        retry_after=float(retry) if isinstance(retry, int | float) else None,
    )


def _tree(cls: type[ModelworksError]) -> list[type[ModelworksError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found += _tree(sub)
    return found
