"""A resource: what a user declared (``spec``), what the platform made of it (``status``), and who it is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from modelworks.kernel.spec import Spec

API_VERSION = "modelworks/v1"
DEFAULT_WORKSPACE = "default"

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_LONGEST_WORKSPACE = 60
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")


def check_name(name: str) -> str:
    """Names are DNS-like, 1-63 characters, since they become host names, paths and bucket names."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"not a valid name: {name!r}; use 1-63 lower-case letters, digits, '-' and '.', "
            "beginning and ending with a letter or digit"
        )
    return name


def _check_label(key: str) -> str:
    if not _LABEL.fullmatch(key):
        raise ValueError(f"not a valid label: {key!r}; use 1-128 letters, digits and '._/-'")
    return key


Name = Annotated[
    str,
    AfterValidator(check_name),
    # For who makes a client of the schema; the check above tells people what is wrong.
    Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$", "minLength": 1, "maxLength": 63}),
]


def check_workspace(name: str) -> str:
    """A name without dots (``workspace.service`` is a path's) that fits behind ``mw-`` in the name of its bucket."""
    check_name(name)
    if "." in name or len(name) > _LONGEST_WORKSPACE:
        raise ValueError(f"not a workspace: {name!r}; use 1-{_LONGEST_WORKSPACE} lower-case letters, digits and '-'")
    return name


_WORKSPACE = r"[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?"
WorkspaceName = Annotated[
    str,
    AfterValidator(check_workspace),
    Field(json_schema_extra={"pattern": f"^{_WORKSPACE}$", "minLength": 1, "maxLength": _LONGEST_WORKSPACE}),
]
LabelKey = Annotated[str, AfterValidator(_check_label)]
LabelValue = Annotated[str, Field(max_length=256)]


class Metadata(Spec):
    """Who a resource is."""

    name: Name
    workspace: WorkspaceName = DEFAULT_WORKSPACE
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)


class Manifest(Spec):
    """One document of ``mw apply -f``: the envelope; ``spec`` is validated by its kind."""

    apiVersion: Literal["modelworks/v1"] = "modelworks/v1"
    kind: str = Field(max_length=64)
    metadata: Metadata
    spec: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Ref:
    """``workspace/kind/name``."""

    workspace: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.workspace}/{self.kind}/{self.name}"


@dataclass(frozen=True)
class Resource:
    """A stored resource. ``resolved`` is what apply made of names in the spec (digests, shapes, substitutions)."""

    uid: str
    ref: Ref
    generation: int
    spec: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    resolved: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    deleting: datetime | None = None
    version: int = 0

    def document(self) -> dict[str, Any]:
        """As the API and ``mw get -o yaml`` show it."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.ref.kind,
            "metadata": {
                "name": self.ref.name,
                "workspace": self.ref.workspace,
                "labels": dict(self.labels),
                "uid": self.uid,
                "generation": self.generation,
                "created_at": self.created_at.isoformat(),
                "updated_at": self.updated_at.isoformat(),
                "deleting": self.deleting.isoformat() if self.deleting else None,
            },
            "spec": self.spec,
            "resolved": self.resolved,
            "status": self.status,
        }
