"""HTTP of serving: tokens, start and stop, logs."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from modelworks.db import events, resources, secrets
from modelworks.kernel.errors import Conflict, FieldError, Forbidden, Invalid, NotFound
from modelworks.kernel.quantities import parse_duration
from modelworks.kernel.spec import Spec
from modelworks.products.context import Context, ContextOf, NamePath, PrincipalOf, ReplicaQuery, WorkspaceOf
from modelworks.products.logs import LogResponse, Parts, stream
from modelworks.products.named import named
from modelworks.products.serving import explain, metrics, releases, tasks, usage
from modelworks.products.serving.facade import SERVICE
from modelworks.products.serving.incarnations import replica_key
from modelworks.products.serving.queries import TOKEN, rotate_token
from modelworks.products.serving.routing import service_path

_routes = APIRouter(prefix="/services", tags=["services"])


def router() -> APIRouter:
    whole = APIRouter()
    for part in (_routes, releases.router(), explain.router(), metrics.router(), tasks.router(), usage.router()):
        whole.routes.extend(part.routes)
    return whole


class Token(Spec):
    """What opens the service at the gateway, as ``Authorization: Bearer <token>`` or the bare token."""

    token: str
    path: str


@_routes.get("/{name}/token", summary="The token of a service", operation_id="getServiceToken")
def show_token(name: NamePath, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf) -> Token:
    """The token that callers of ``/api/predict/<service>`` need: not for keys that may only read."""
    if principal.read_only:
        raise Forbidden(f"the key {principal.name} may only read: a service's token would let it use the service")
    with context.engine.begin() as connection:
        service = named(connection, SERVICE.name, workspace, name)
        secrets.ensure(connection, context.cipher, service.uid, TOKEN)
        text = secrets.get(connection, context.cipher, service.uid, TOKEN)
    return Token(token=text, path=service_path(workspace, name))


@_routes.post("/{name}/token/rotate", summary="Replace the token of a service", operation_id="rotateServiceToken")
def rotate(
    name: NamePath,
    context: ContextOf,
    workspace: WorkspaceOf,
    keep: Annotated[str, Query(max_length=32, description="How long the old token still works, such as 10m.")] = "0s",
) -> Token:
    """A new token. The old one stops working at once, or after ``keep`` (at most a day)."""
    try:
        seconds = parse_duration(keep)
    except ValueError as error:
        raise Invalid(str(error), fields=(FieldError("keep", str(error)),)) from None
    if seconds > 86_400:
        raise Invalid("keep is at most 1d", fields=(FieldError("keep", "at most 1d"),))
    with context.engine.begin() as connection:
        service = named(connection, SERVICE.name, workspace, name, lock=True)
        secrets.ensure(connection, context.cipher, service.uid, TOKEN)
        now = time.time()
        until = round(now + seconds) if seconds else None
        text = rotate_token(connection, context.cipher, service.uid, now=now, keep_until=until)
        said = f"the old one works for {keep}" if seconds else "the old one is refused"
        events.append(connection, service.ref, service.uid, "TokenRotated", f"a new token was made; {said}")
        resources.wake(connection, [service.uid])
    return Token(token=text, path=service_path(workspace, name))


@_routes.post("/{name}/start", status_code=202, summary="Start a stopped service", operation_id="startService")
def start(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> dict[str, Any]:
    """Runs what its spec says; a service of no replicas gets one."""
    return _switch(context, workspace, name, stopped=False)


@_routes.post("/{name}/stop", status_code=202, summary="Stop a service and keep it", operation_id="stopService")
def stop(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> dict[str, Any]:
    """Ends its replicas; its spec, token and path stay. Applying its manifest again starts it."""
    return _switch(context, workspace, name, stopped=True)


def _switch(context: Context, workspace: str, name: str, *, stopped: bool) -> dict[str, Any]:
    with context.engine.begin() as connection:
        service = named(connection, SERVICE.name, workspace, name, lock=True)
        if service.deleting is not None:
            raise Conflict(f"the service {name} is being deleted")
        spec = service.spec | {"stopped": stopped}
        if not stopped and not spec.get("replicas", 1):
            spec["replicas"] = 1
        if spec == service.spec:
            return service.document()
        changed = resources.replace(connection, service.uid, spec, service.resolved, service.labels)
        verb = "stop" if stopped else "start"
        events.append(connection, changed.ref, changed.uid, "Updated", f"{verb} requested")
    return changed.document()


@_routes.get(
    "/{name}/log",
    summary="The log of a replica",
    operation_id="getServiceLog",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def log(
    name: NamePath,
    context: ContextOf,
    workspace: WorkspaceOf,
    replica: ReplicaQuery = 0,
    previous: Annotated[bool, Query(description="Of the replica's run that ended last, though another runs.")] = False,
    follow: Annotated[bool, Query(description="Go on until the replica has ended.")] = False,
    offset: Annotated[int, Query(ge=0, le=2**62, description="Bytes to leave out.")] = 0,
) -> LogResponse:
    """Standard output and error of a replica as text: of the one that runs, else of the one that ended last."""
    with context.engine.connect() as connection:
        service = named(connection, SERVICE.name, workspace, name)
    key = replica_key(service.uid, service.status, replica, previous=previous)
    if key is None and previous:
        raise NotFound(
            f"no run of replica {replica} of the service {name} has ended in its revision",
            remedy=f"`mw service log {name} --replica {replica}` shows the one that runs, if there is one",
        )
    if key is None:
        raise NotFound(
            f"the service {name} has no replica {replica}: {service.status.get('message', 'it has not begun')}",
            remedy=f"`mw service get {name}` shows its replicas",
        )

    def parts() -> Parts | None:
        with context.engine.connect() as connection:
            now = resources.get_by_uid(connection, service.uid)
        if now is None:
            return None
        live = any(found["key"] == key for found in now.status.get("replicas", ()))
        return Parts((key,), 0 if live else 1, not live)

    return LogResponse(stream(context, workspace, parts, offset, follow=follow))
