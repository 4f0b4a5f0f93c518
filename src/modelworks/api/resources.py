"""Generic routes of every kind: apply, list, get, delete."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Response

from modelworks.api.auth import check_workspace
from modelworks.api.documents import (
    AppliedDocument,
    ApplyRequest,
    ApplyResults,
    DeletionDocument,
    KindDocument,
    KindList,
    ResourceDocument,
    ResourcePage,
)
from modelworks.control.apply import Applied, Outcome, apply
from modelworks.control.delete import delete
from modelworks.db import resources
from modelworks.kernel.errors import FieldError, Invalid, NotFound
from modelworks.kernel.principal import Principal
from modelworks.kernel.resource import DEFAULT_WORKSPACE, Ref
from modelworks.products.context import Context, ContextOf, NamePath, PageSize, PrincipalOf, WorkspaceOf
from modelworks.products.kind import ADVICE_PATIENCE, Kind, check_may_write
from modelworks.products.named import named

router = APIRouter(tags=["resources"])

KindName = Annotated[str, Path(max_length=64, description="Its name, plural or short name.", examples=["Bucket"])]


@router.post("/apply", summary="Create or update resources", operation_id="apply")
def apply_manifests(
    body: ApplyRequest, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf
) -> ApplyResults:
    """All manifests are stored, or none is. A manifest without a workspace is for `?workspace=`."""
    manifests = [_in_workspace(manifest, workspace, principal) for manifest in body.manifests]
    applied = apply(
        context.engine, manifests, context.settings, context.kinds, principal=principal, dry_run=body.dry_run
    )
    if not body.dry_run:
        until = time.monotonic() + ADVICE_PATIENCE
        applied = [_advised(result, context, until) for result in applied]
    return ApplyResults(results=[AppliedDocument.of(result) for result in applied])


def _advised(result: Applied, context: Context, until: float) -> Applied:
    """With what its kind says about something new, once it is stored: a note holds nothing back.

    There is none behind ``until`` (monotonic): however many manifests a request has, it waits once.
    """
    advise, left = context.kinds[result.resource.ref.kind].advise, until - time.monotonic()
    if advise is None or result.action is not Outcome.CREATED or left <= 0:
        return result
    return replace(result, notes=(*result.notes, *advise(result.resource, context.credentials, left)))


@router.get("/kinds", summary="What can be declared", operation_id="listKinds")
def list_kinds(context: ContextOf) -> KindList:
    """Every kind with the JSON schema of its spec and an example."""
    return KindList(
        items=[
            KindDocument(
                name=kind.name,
                plural=kind.plural,
                short=list(kind.short),
                description=" ".join((kind.spec.__doc__ or "").split()),
                json_schema=kind.spec.model_json_schema(),
                example=kind.example,
            )
            for kind in context.kinds.values()
        ]
    )


@router.get("/resources/{kind}", summary="List a kind", operation_id="listResources", response_model=ResourcePage)
def list_resources(
    kind: KindName,
    context: ContextOf,
    workspace: WorkspaceOf,
    label: Annotated[
        list[str] | None, Query(max_length=32, description="`key=value`; all must match.", examples=[["team=vision"]])
    ] = None,
    limit: PageSize = 100,
    cursor: Annotated[str | None, Query(max_length=1024, description="`next_cursor` of the page before.")] = None,
) -> Response:
    """One page, in the order of the names."""
    name = find_kind(context.kinds, kind).name
    labels = dict(_label(text) for text in label or ())
    with context.engine.connect() as connection:
        page = resources.page(connection, name, workspace=workspace, labels=labels, limit=limit, cursor=cursor)
    # Written directly: the documents are our own, and checking a thousand of them again takes longer than reading them.
    body = {"items": [resource.document() for resource in page.items], "next_cursor": page.next_cursor}
    return Response(orjson.dumps(body), media_type="application/json")


@router.get("/resources/{kind}/{name}", summary="Get a resource", operation_id="getResource")
def get_resource(kind: KindName, name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> ResourceDocument:
    """Its spec, what its names were resolved to, and its status."""
    with context.engine.connect() as connection:
        return ResourceDocument.of(named(connection, find_kind(context.kinds, kind).name, workspace, name))


@router.delete("/resources/{kind}/{name}", status_code=202, summary="Delete a resource", operation_id="deleteResource")
def delete_resource(
    kind: KindName, name: NamePath, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf
) -> DeletionDocument:
    """It ends what it holds and then goes; until then it is shown with `deleting`. Repeated, nothing more happens."""
    found = find_kind(context.kinds, kind)
    check_may_write(found, principal)
    ref = Ref(workspace, found.name, name)
    deletion = delete(context.engine, ref, context.kinds)
    return DeletionDocument(resource=ResourceDocument.of(deletion.resource), notes=list(deletion.notes))


def find_kind(kinds: Mapping[str, Kind], text: str) -> Kind:
    """A kind by its name, plural or a short name, in whatever case. Raises NotFound with the nearest."""
    wanted = text.lower()
    names = {alias.lower(): kind for kind in kinds.values() for alias in (kind.name, kind.plural, *kind.short)}
    if wanted in names:
        return names[wanted]
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"; did you mean {names[near[0]].name}?" if near else ""
    raise NotFound(f"there is no kind {text!r}{hint}", remedy=f"the kinds are {', '.join(sorted(kinds))}")


def _in_workspace(manifest: dict[str, Any], workspace: str, principal: Principal) -> dict[str, Any]:
    """The manifest with its workspace; one that is no manifest is left for apply to refuse."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict):
        return manifest
    named = metadata.get("workspace", workspace)
    check_workspace(principal, named if isinstance(named, str) else DEFAULT_WORKSPACE)
    return {**manifest, "metadata": {**metadata, "workspace": named}}


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Invalid("not a label", fields=(FieldError("label", f"expected key=value, not {text!r}"),))
    return key, value
