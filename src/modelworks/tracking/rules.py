"""What of MLflow's HTTP interface passes, what of it writes, and which workspace of MLflow's is whose. Pure.

MLflow's server can do more than track: run an assistant's commands, call language models and webhooks with secrets it
keeps, and read artifacts from wherever it is told. It trusts whoever reaches it, so what is not tracking does not pass.
"""

from __future__ import annotations

import json
import re
from typing import Any

_API = re.compile(r"/(?:ajax-)?api/[23]\.0/mlflow/([a-z-]+)(?:/(.*))?")
_ARTIFACTS = re.compile(r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts(?:/.*)?")
_PAGES = re.compile(
    r"/|/health|/version|/graphql|/get-artifact|/model-versions/get-artifact|/v1/traces|/static-files/.+"
)
_FAMILIES = frozenset(
    {
        "artifacts", "datasets", "experiments", "get-online-trace-details", "get-trace-artifact", "issues",
        "label-schemas", "logged-models", "metrics", "model-versions", "registered-models", "review-queues", "runs",
        "server-info", "traces", "ui-telemetry", "unified-traces", "upload-artifact", "workspaces",
    }
)  # fmt: skip
# They hand out addresses of the object store, or make the server call others.
_NEVER = frozenset(
    {
        ("artifacts", "presigned-download-url"),
        ("artifacts", "presigned-upload-url"),
        ("issues", "invoke"),
        ("runs", "create-promptlab-run"),
    }
)
_READS = ("GET", "HEAD", "OPTIONS")
_ASKS = frozenset(
    {
        "search", "search-datasets", "graphql", "get-history-bulk-interval", "batchGet", "batchGetInfos", "metrics",
        "calculate-filter-correlation", "ui-telemetry",
    }
)  # fmt: skip
_KEPT_FROM_JOBS = frozenset({"experiments", "runs", "registered-models", "model-versions", "traces"})
LONGEST_INSPECTED = 4 << 20
"""Bytes of a request that names a place of artifacts; longer ones are refused."""
_PLACES = ("mlflow-artifacts:", "runs:", "models:")
_RESERVED = ("workspaces", "api", "ajax-api", "static-files")
_MAPPED = "ws-"


def passes(method: str, path: str) -> bool:
    """Whether a request is one of tracking: ``path`` without ``/mlflow``, decoded."""
    if "//" in path or "\\" in path or any(part in (".", "..") for part in path.split("/")):
        return False
    if _PAGES.fullmatch(path) or _ARTIFACTS.fullmatch(path):
        return True
    found = _API.fullmatch(path)
    if found is None or found[1] not in _FAMILIES:
        return False
    if found[1] == "workspaces":
        return method in _READS  # they are the platform's
    return (found[1], found[2]) not in _NEVER


def writes(method: str, path: str) -> bool:
    """Whether it may change something; searches are POSTs too."""
    return method not in _READS and path.rsplit("/", 1)[-1] not in _ASKS


def kept_from_jobs(method: str, path: str) -> bool:
    """Whether it removes what other jobs may have written."""
    found = _API.fullmatch(path)
    if found is None or found[1] not in _KEPT_FROM_JOBS:
        return False
    last = path.rsplit("/", 1)[-1]
    return last in ("delete", "delete-traces") or (method == "DELETE" and found[2] is None)


def names_a_place(method: str, path: str) -> bool:
    """Whether the request's body can tell the server where artifacts are."""
    found = _API.fullmatch(path)
    if found is None or method in _READS:
        return False
    family, rest = found[1], found[2] or ""
    return (
        family in ("traces", "unified-traces")
        or (family in ("experiments", "model-versions", "logged-models", "registered-models"))
        or (family == "runs" and rest in ("create", "set-tag"))
    )


def foreign_place(body: bytes) -> str | None:
    """The first place of artifacts in a body that is not the server's own: it would read it with its own rights."""
    if not body:
        return None
    try:
        document = json.loads(body)
        if isinstance(document, str):  # MLflow takes what is encoded twice
            document = json.loads(document)
    except ValueError:
        return None  # MLflow refuses it
    return _foreign(document)


def _foreign(document: Any) -> str | None:
    if isinstance(document, list):
        return next((found for item in document if (found := _foreign(item)) is not None), None)
    if not isinstance(document, dict):
        return None
    named = {key: value for key, value in document.items() if _is_place(str(key))}
    if _is_place(str(document.get("key"))):
        named["value"] = document.get("value")
    for value in named.values():
        if isinstance(value, str) and value and not value.startswith(_PLACES):
            return value
    return next((found for value in document.values() if (found := _foreign(value)) is not None), None)


def _is_place(name: str) -> bool:
    plain = name.replace("_", "").replace(".", "").lower()
    return plain in ("artifactlocation", "source", "artifacturi", "defaultartifactroot", "mlflowartifactlocation")


def mlflow_workspace(workspace: str) -> str:
    """MLflow's name for a workspace: the same, but for the few names that it does not take. No two are alike."""
    if len(workspace) < 2 or workspace in _RESERVED or workspace.startswith(_MAPPED):
        return f"{_MAPPED}{workspace}"
    return workspace


def own_workspace(name: str) -> str:
    """The inverse of :func:`mlflow_workspace`."""
    return name.removeprefix(_MAPPED)
