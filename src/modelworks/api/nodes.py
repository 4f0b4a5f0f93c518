"""Routes about nodes: what they have, who is on them, and taking them out of service and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field
from sqlalchemy import Connection

from modelworks.api.auth import check_administrator
from modelworks.api.documents import NodeDetail, NodeList, NodeWorkload
from modelworks.db import claims, nodes
from modelworks.db.claims import StoredClaim
from modelworks.kernel.errors import NotFound
from modelworks.kernel.principal import Principal
from modelworks.kernel.quantities import Duration
from modelworks.kernel.room import NOTHING, add, amount
from modelworks.kernel.spec import Spec
from modelworks.products.context import Context, ContextOf, PrincipalOf

router = APIRouter(prefix="/nodes", tags=["nodes"])

NodeName = Annotated[str, Path(min_length=1, max_length=253, description="Its name.", examples=["gpu-1"])]


class DrainRequest(Spec):
    """How long what leaves the node has to end, and why it is emptied."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"notice": "10m", "reason": "a new disk"}]})

    notice: Duration = Field(default=180.0, ge=0, le=86_400)
    reason: str = Field(default="", max_length=256)


@router.get("", summary="The nodes", operation_id="listNodes")
def list_nodes(context: ContextOf, principal: PrincipalOf) -> NodeList:
    """Room, state and workloads of each. A key of one workspace sees the workloads of that one only."""
    with context.engine.connect() as connection:
        stored = claims.everything(connection)
        return NodeList(items=[_document(node, stored, principal) for node in nodes.everything(connection)])


@router.get("/{name}", summary="A node", operation_id="getNode")
def get_node(name: NodeName, context: ContextOf, principal: PrincipalOf) -> NodeDetail:
    """Its room, state and workloads."""
    with context.engine.connect() as connection:
        return _found(connection, name, principal)


@router.post("/{name}/cordon", summary="Give a node no new work", operation_id="cordonNode")
def cordon(name: NodeName, context: ContextOf, principal: PrincipalOf) -> NodeDetail:
    """What runs there stays."""
    return _change(context, principal, name, nodes.cordon)


@router.post("/{name}/uncordon", summary="Give a node work again", operation_id="uncordonNode")
def uncordon(name: NodeName, context: ContextOf, principal: PrincipalOf) -> NodeDetail:
    """Also ends a drain; what was told to leave by it ends all the same."""
    return _change(context, principal, name, nodes.uncordon)


@router.post("/{name}/drain", status_code=202, summary="Empty a node", operation_id="drainNode")
def drain(name: NodeName, context: ContextOf, principal: PrincipalOf, body: DrainRequest) -> NodeDetail:
    """It gets no new work, and jobs on it have `notice` to save a checkpoint and go on elsewhere.

    Of a service another replica serves elsewhere before one goes: where there is no room for it, the old one stays.
    """
    return _change(context, principal, name, lambda c, n: nodes.drain(c, n, body.notice, body.reason))


def _change(context: Context, principal: Principal, name: str, change: Callable[[Connection, str], bool]) -> NodeDetail:
    check_administrator(principal, "manage nodes")
    with context.engine.begin() as connection:
        change(connection, name)
        return _found(connection, name, principal)


def _found(connection: Connection, name: str, principal: Principal) -> NodeDetail:
    node = nodes.get(connection, name)
    if node is None:
        raise NotFound(f"there is no node {name}", remedy="`mw node list` shows those there are")
    return _document(node, claims.everything(connection), principal)


def _document(node: nodes.Node, stored: list[StoredClaim], principal: Principal) -> NodeDetail:
    here = [claim for claim in stored if claim.node == node.observation.name]
    used = NOTHING
    for claim in here:
        used = add(used, amount(claim.claim.resources))
    return NodeDetail(
        **NodeDetail.fields_of(node),
        used_cpu=used[0] / 1000,
        used_memory=used[1],
        used_gpu=used[2],
        claims=len(here),
        workloads=[
            NodeWorkload(
                workspace=claim.ref.workspace,
                kind=claim.ref.kind,
                name=claim.ref.name,
                key=claim.claim.key,
                priority=claim.claim.priority,
                leaves_by=claim.evict_at,
            )
            for claim in here
            if principal.may_use(claim.ref.workspace)
        ],
    )
