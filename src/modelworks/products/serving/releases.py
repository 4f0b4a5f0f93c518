"""HTTP of serving: revisions, canary, rollback, and trying again what was taken back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from sqlalchemy import Connection

from modelworks.db import events, resources, revisions
from modelworks.kernel.errors import Conflict, NotFound
from modelworks.kernel.principal import Principal
from modelworks.kernel.resource import Metadata, Ref, Resource
from modelworks.kernel.spec import Spec
from modelworks.products.context import Context, ContextOf, NamePath, PrincipalOf, WorkspaceOf
from modelworks.products.kind import Lookup
from modelworks.products.named import named
from modelworks.products.serving.changes import Change, canary_change, former, resumed, rolled_back, summary
from modelworks.products.serving.resolve import canary_facts, resolve
from modelworks.products.serving.revisions import overlaid, revision
from modelworks.products.serving.spec import ServiceSpec
from modelworks.products.serving.traffic_spec import Canary

_routes = APIRouter(prefix="/services", tags=["services"])


def router() -> APIRouter:
    return _routes


class RevisionDocument(Spec):
    """One revision of a service. ``what`` holds the fields that people tell it by: model, image, command …"""

    revision: str
    number: int
    created_at: datetime
    what: dict[str, Any]
    current: bool = Field(description="the spec asks for it")
    canary: bool
    serves: bool = Field(description="replicas of it are ready")
    reversed: str | None = Field(description="why it was taken back, if it was")


class Revisions(Spec):
    """The newest first."""

    items: list[RevisionDocument]


class CanaryChange(Canary):
    """The fields of ``spec.canary`` that change; the others stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "digits:2", "weight": 10}]})


class Rollback(Spec):
    """``to`` is a revision or its number; without it, the one that was asked for before the present one."""

    to: str | None = Field(default=None, min_length=1, max_length=64)

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "2"}]})


@_routes.get("/{name}/revisions", summary="Revisions of a service", operation_id="listServiceRevisions")
def list_revisions(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> Revisions:
    """All that are kept, the newest first: at most 200."""
    with context.engine.connect() as connection:
        service = named(connection, "Service", workspace, name)
        found = revisions.newest_first(connection, service.uid)
    status = service.status
    current, canary = _revision(service), (status.get("canary") or {}).get("revision")
    serving = {replica["revision"] for replica in status.get("replicas", ()) if replica["ready"]}
    taken = status.get("reversed", {})
    return Revisions(
        items=[
            RevisionDocument(
                revision=one.revision,
                number=one.number,
                created_at=one.created_at,
                what=summary(one.spec),
                current=one.revision == current,
                canary=one.revision == canary,
                serves=one.revision in serving,
                reversed=taken[one.revision]["reason"] if one.revision in taken else None,
            )
            for one in found
        ]
    )


@_routes.post("/{name}/canary", status_code=202, summary="Change the canary", operation_id="changeServiceCanary")
def change_canary(
    body: CanaryChange, name: NamePath, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf
) -> dict[str, Any]:
    """Starts a canary, changes what it is or its weight. Weight 100 promotes it, and weight 0 alone ends it.

    Fields that are not in the body stay. A canary that was taken back for its errors or latency is tried again.
    """
    given = {key: value for key, value in body.dump().items() if key in body.model_fields_set}
    with context.engine.begin() as connection:
        service = named(connection, "Service", workspace, name, lock=True)
        change = canary_change(service.spec, service.resolved, given)
        again = any("back" not in found for found in service.status.get("reversed", {}).values())
        return _store(connection, context, principal, service, change, again=again)


@_routes.post("/{name}/rollback", status_code=202, summary="Go back to a revision", operation_id="rollBackService")
def roll_back(
    body: Rollback, name: NamePath, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf
) -> dict[str, Any]:
    """The service as that revision was; replicas, limits and traffic stay, and its canary ends."""
    with context.engine.begin() as connection:
        service = named(connection, "Service", workspace, name, lock=True)
        current = _revision(service)
        wanted = body.to or former(service.status.get("history", ()), current)
        if wanted is None:
            raise Conflict(f"the service {name} has had one revision only", remedy=f"mw service revisions {name}")
        found = revisions.find(connection, service.uid, wanted)
        if found is None:
            raise NotFound(f"the service {name} has no revision {wanted}", remedy=f"mw service revisions {name}")
        if found.revision == current and "canary" not in service.spec:
            return service.document()
        said = f"rolled back to revision {found.number} ({found.revision})"
        change = rolled_back(service.spec, service.resolved, found.spec, found.resolved, said)
        return _store(connection, context, principal, service, change, again=bool(service.status.get("reversed")))


@_routes.post("/{name}/resume", status_code=202, summary="Try again what was taken back", operation_id="resumeService")
def resume(name: NamePath, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf) -> dict[str, Any]:
    """A revision or canary that was taken back gets its requests again, and is judged anew."""
    with context.engine.begin() as connection:
        service = named(connection, "Service", workspace, name, lock=True)
        if not service.status.get("reversed"):
            return service.document()
        change = Change(service.spec, dict(service.resolved), "what was taken back is tried again")
        return _store(connection, context, principal, service, change, again=True)


def _store(
    connection: Connection, context: Context, principal: Principal, service: Resource, change: Change, *, again: bool
) -> dict[str, Any]:
    """The service changed: its names looked up where that is due, and what was taken back void with ``again``."""
    if service.deleting is not None:
        raise Conflict(f"the service {service.ref.name} is being deleted")
    spec, facts = ServiceSpec.parse(change.spec, at="spec"), change.resolved
    if facts is None:
        metadata = Metadata(name=service.ref.name, workspace=service.ref.workspace, labels=service.labels)
        lookup = Lookup(
            connection,
            context.settings,
            lambda workspace, kind, name: resources.get(connection, Ref(workspace, kind, name)),
            principal,
        )
        if change.canary_only:
            facts = {**service.resolved, "canary": canary_facts(metadata, spec, lookup).data}
            _check_other(service, change, facts)
        else:
            facts = resolve(metadata, spec, lookup).data
    facts = resumed(facts) if again else facts
    stored = spec.dump()
    if stored == service.spec and facts == service.resolved:
        return service.document()
    changed = resources.replace(connection, service.uid, stored, facts, service.labels)
    events.append(connection, changed.ref, changed.uid, "Updated", change.said)
    return changed.document()


def _check_other(service: Resource, change: Change, facts: dict[str, Any]) -> None:
    """Raises Conflict for a canary of which nothing differs: two versions of a model may be the same bytes."""
    canary = ServiceSpec.parse(overlaid(change.spec), at="spec")
    if revision(canary, facts["canary"]) == _revision(service):
        raise Conflict(
            f"the canary would be the very revision that serves: what it has of its own is what {service.ref.name} has",
            remedy="compare `mw model get NAME`: versions of the same digest are the same model",
        )


def _revision(service: Resource) -> str:
    return revision(ServiceSpec.parse(service.spec, at="spec"), service.resolved)
