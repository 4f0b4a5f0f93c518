"""Routes about the platform itself: health, status, who asks, API keys."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Path, Request
from sqlalchemy import func, select

from modelworks import __version__
from modelworks.api.auth import Keyring, check_administrator, list_keys, make_key, revoke_key
from modelworks.api.documents import (
    HealthDocument,
    KeyDocument,
    KeyList,
    KeyRequest,
    NewKeyDocument,
    NodeDocument,
    PrincipalDocument,
    StatusDocument,
)
from modelworks.db import nodes
from modelworks.db.tables import resources as table
from modelworks.products.context import Context, ContextOf, PrincipalOf, WorkspaceOf

open_router = APIRouter(tags=["platform"])
router = APIRouter(tags=["platform"])


@open_router.get("/healthz", summary="Is the controller there", operation_id="health")
def health(context: ContextOf) -> HealthDocument:
    """Answers without a key. 503 while the database cannot be reached."""
    with context.engine.connect() as connection:
        connection.execute(select(1))
    return HealthDocument(status="ok", version=__version__)


@router.get("/status", summary="The platform", operation_id="getStatus")
def status(context: ContextOf, workspace: WorkspaceOf) -> StatusDocument:
    """Where it answers, its machines, and how many resources are in which phase."""
    phase = func.coalesce(table.c.status["phase"].astext, "")
    query = (
        select(table.c.kind, phase, func.count()).where(table.c.workspace == workspace).group_by(table.c.kind, phase)
    )
    counts: dict[str, dict[str, int]] = {}
    with context.engine.connect() as connection:
        for kind, name, count in connection.execute(query.order_by(table.c.kind, phase)):
            counts.setdefault(kind, {})[name or "Ready"] = counts.get(kind, {}).get(name or "Ready", 0) + count
        machines = nodes.everything(connection)
    url, s3_url = _addresses(context)
    return StatusDocument(
        version=__version__,
        url=url,
        s3_url=s3_url,
        nodes=[NodeDocument(**NodeDocument.fields_of(node)) for node in machines],
        isolation=all(node.observation.isolation for node in machines) if machines else None,
        counts=counts,
    )


@router.get("/whoami", summary="The key that asks", operation_id="whoami")
def whoami(principal: PrincipalOf) -> PrincipalDocument:
    """Its name, the workspace it is bound to, and whether it may only read."""
    return PrincipalDocument(name=principal.name, workspace=principal.workspace, read_only=principal.read_only)


@router.get("/keys", summary="API keys", operation_id="listKeys")
def get_keys(context: ContextOf, principal: PrincipalOf) -> KeyList:
    """Without their texts, which are not stored."""
    check_administrator(principal)
    with context.engine.connect() as connection:
        found = list_keys(connection)
    return KeyList(
        items=[
            KeyDocument(name=k.name, workspace=k.workspace, read_only=k.read_only, created_at=k.created_at)
            for k in found
        ]
    )


@router.post("/keys", status_code=201, summary="Make an API key", operation_id="createKey")
def create_key(body: KeyRequest, context: ContextOf, principal: PrincipalOf) -> NewKeyDocument:
    """The answer holds its text, which is not shown again."""
    check_administrator(principal)
    with context.engine.begin() as connection:
        key, text = make_key(connection, body.name, body.workspace, body.read_only)
    return NewKeyDocument(
        name=key.name, workspace=key.workspace, read_only=key.read_only, created_at=key.created_at, key=text
    )


@router.delete("/keys/{name}", status_code=204, summary="Revoke an API key", operation_id="revokeKey")
def delete_key(
    name: Annotated[str, Path(max_length=63, description="The name of the key.", examples=["ci"])],
    request: Request,
    context: ContextOf,
    principal: PrincipalOf,
) -> None:
    """It is worth nothing from now on."""
    check_administrator(principal)
    with context.engine.begin() as connection:
        revoke_key(connection, name)
    keyring: Keyring = request.app.state.keyring
    keyring.forget()


def _addresses(context: Context) -> tuple[str, str | None]:
    """The public URL and the S3 URL: what `mw up` found, else what the settings say."""
    settings = context.settings
    try:
        known = json.loads(context.home.client.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        known = {}  # `mw up` has not finished
    fallback = f"http://{settings.host}:{settings.port}"
    return settings.advertise_url or known.get("url") or fallback, known.get("s3_url") or settings.s3_endpoint
