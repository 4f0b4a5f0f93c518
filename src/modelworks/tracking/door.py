"""What stands before MLflow's application: keys, workspaces, and which requests are tracking at all."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from modelworks.kernel.errors import Forbidden, ModelworksError, NotFound, Unauthorized, Unavailable
from modelworks.kernel.resource import check_workspace
from modelworks.tracking import rules
from modelworks.tracking.callers import Caller, Callers, JobRun
from modelworks.tracking.tokens import PATH

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_WORKSPACE = "x-mlflow-workspace"
_DROPPED = (b"authorization", b"origin", b"x-mlflow-workspace")
_STATUS = {Unauthorized: 401, Forbidden: 403, NotFound: 404, Unavailable: 503}
# MLflow's own words for these, so that its clients tell them apart.
_CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "ENDPOINT_NOT_FOUND", 503: "TEMPORARILY_UNAVAILABLE"}
_MOST_REMEMBERED = 1024
log = logging.getLogger("modelworks.tracking.door")


class Door:
    """An ASGI application around MLflow's."""

    def __init__(
        self,
        inner: Application,
        callers: Callers,
        ensure_workspace: Callable[[str], None],
        ensure_run: Callable[[JobRun, str | None, str | None], None],
    ) -> None:
        self._inner, self._callers = inner, callers
        self._ensure_workspace, self._ensure_run = ensure_workspace, ensure_run
        self._workspaces: set[str] = set()
        self._experiments: dict[str, tuple[str | None, str | None]] = {}  # of jobs: which id or name was asked for last
        self.busy = 0
        self.last_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        self.busy += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.busy -= 1
            self.last_at = time.monotonic()

    async def _list_workspaces(self, caller: Caller, send: Send) -> None:
        """A key that is bound to a workspace sees no other's name."""
        own = rules.mlflow_workspace(str(caller.workspace))
        document = json.dumps({"workspaces": [{"name": own}]}).encode()
        await _respond(send, 200, document, [(b"content-type", b"application/json")])

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == PATH:
            await _respond(send, 307, b"", [(b"location", f"{PATH}/".encode())])
            return
        try:
            caller, scope, receive = await self._admitted(scope, receive)
        except ModelworksError as error:
            await _refuse(send, error)
            return
        if caller.workspace is not None and scope["path"].endswith("/mlflow/workspaces"):
            await self._list_workspaces(caller, send)
            return
        await self._inner(scope, receive, send)

    async def _admitted(self, scope: Scope, receive: Receive) -> tuple[Caller, Scope, Receive]:
        """Who asks, and the request as MLflow is to see it. Raises what it is refused with."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = scope["path"].removeprefix(PATH), scope["method"]
        _check_origin(method, headers)
        caller = await asyncio.to_thread(self._callers.find, headers.get("authorization"))
        if not rules.passes(method, path):
            raise NotFound(f"{method} {path} is not served here", remedy="it serves what belongs to tracking")
        if caller.read_only and rules.writes(method, path):
            raise Forbidden(f"the key {caller.name} may only read")
        if caller.job is not None and rules.kept_from_jobs(method, path):
            raise Forbidden("a job's token does not delete", remedy="use an API key")
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        workspace = _workspace(caller, headers.get(_WORKSPACE) or query.get("workspace"))
        _check_named_workspace(caller, path)
        if rules.names_a_place(method, path):
            receive = await _inspected(receive)
        await self._prepare(caller, method, path, query, workspace)
        forwarded = [(name, value) for name, value in scope["headers"] if name not in _DROPPED]
        forwarded.append((_WORKSPACE.encode(), rules.mlflow_workspace(workspace).encode()))
        seen = {**scope, "path": path, "raw_path": path.encode(), "root_path": "", "headers": forwarded}
        return caller, seen, receive

    async def _prepare(self, caller: Caller, method: str, path: str, query: dict[str, str], workspace: str) -> None:
        # An administrator names workspaces that may not be: looking at one does not make it.
        if workspace not in self._workspaces and (caller.workspace is not None or rules.writes(method, path)):
            await asyncio.to_thread(self._ensure_workspace, workspace)
            self._workspaces.add(workspace)
        job = caller.job
        if job is None or method != "GET":
            return
        if path.endswith("/mlflow/experiments/get-by-name"):
            self._remember(job, None, query.get("experiment_name"))
        elif path.endswith("/mlflow/experiments/get"):
            self._remember(job, query.get("experiment_id"), None)
        elif path.endswith("/mlflow/runs/get") and job.uid in (query.get("run_id"), query.get("run_uuid")):
            # A script that names another experiment than the job does expects its run there.
            await asyncio.to_thread(partial(self._ensure_run, job, *self._experiments.get(job.uid, (None, None))))

    def _remember(self, job: JobRun, experiment_id: str | None, name: str | None) -> None:
        if len(self._experiments) >= _MOST_REMEMBERED:
            del self._experiments[next(iter(self._experiments))]
        self._experiments.pop(job.uid, None)
        self._experiments[job.uid] = (experiment_id, name)


def _check_origin(method: str, headers: dict[str, str]) -> None:
    """A browser sends the password it knows with requests of foreign pages, too."""
    origin = headers.get("origin")
    if origin is None or method in ("GET", "HEAD"):
        return
    if urlsplit(origin).netloc not in (headers.get("host"), headers.get("x-forwarded-host")):
        raise Forbidden(f"requests of pages from {origin} are not taken")


def _workspace(caller: Caller, asked: str | None) -> str:
    """Raises Forbidden for another workspace than the key's."""
    wanted = rules.own_workspace(asked.strip()) if asked and asked.strip() else caller.workspace or "default"
    if caller.workspace is not None and wanted != caller.workspace:
        raise Forbidden(f"the key {caller.name} is for the workspace {caller.workspace}")
    try:
        return check_workspace(wanted)
    except ValueError as error:
        raise NotFound(f"there is no workspace {wanted!r}: {error}") from error


def _check_named_workspace(caller: Caller, path: str) -> None:
    """Raises Forbidden when the path names another workspace than the key's."""
    _, found, name = path.partition("/mlflow/workspaces/")
    if found and caller.workspace is not None and rules.own_workspace(name) != caller.workspace:
        raise Forbidden(f"the key {caller.name} is for the workspace {caller.workspace}")


async def _inspected(receive: Receive) -> Receive:
    """The request's body, read and found to name no foreign place of artifacts; Forbidden when it does."""
    parts: list[bytes] = []
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return _again([message], receive)
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        more = message.get("more_body", False)
        if length > rules.LONGEST_INSPECTED:
            raise Forbidden(f"such a request may have {rules.LONGEST_INSPECTED} bytes")
    body = b"".join(parts)
    place = rules.foreign_place(body)
    if place is not None:
        raise Forbidden(
            f"artifacts are kept by the server: {place[:200]!r} is no place of its own",
            remedy="leave out artifact_location; sources of models begin with mlflow-artifacts:, runs: or models:",
        )
    return _again([{"type": "http.request", "body": body, "more_body": False}], receive)


def _again(messages: list[Message], receive: Receive) -> Receive:
    async def repeat() -> Message:
        return messages.pop(0) if messages else await receive()

    return repeat


async def _refuse(send: Send, error: ModelworksError) -> None:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="Modelworks: any user, an API key as the password"'))
    if status == 503:
        headers.append((b"retry-after", b"1"))
    said = f"{error.detail}; {error.remedy}" if error.remedy else error.detail
    document = {"error_code": _CODES.get(status, "INTERNAL_ERROR"), "message": said}
    await _respond(send, status, json.dumps(document).encode(), headers)


async def _respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
