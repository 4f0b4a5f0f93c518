"""The shapes of the API's answers, for its OpenAPI document and the clients made from it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from modelworks.control.apply import Applied
from modelworks.db.nodes import Node
from modelworks.kernel.events import Event
from modelworks.kernel.resource import Name, Resource, WorkspaceName
from modelworks.kernel.run import Resources
from modelworks.kernel.spec import Spec


class MetadataDocument(BaseModel):
    """Who a resource is, and since when."""

    name: str
    workspace: str
    labels: dict[str, str]
    uid: str
    generation: int
    created_at: datetime
    updated_at: datetime
    deleting: datetime | None


class ResourceDocument(BaseModel):
    """What was declared (`spec`), what apply made of its names (`resolved`), and what became of it (`status`)."""

    apiVersion: str
    kind: str
    metadata: MetadataDocument
    spec: dict[str, Any]
    resolved: dict[str, Any]
    status: dict[str, Any]

    @classmethod
    def of(cls, resource: Resource) -> ResourceDocument:
        return cls.model_validate(resource.document())


class ResourcePage(BaseModel):
    """`next_cursor` is null on the last page."""

    items: list[ResourceDocument]
    next_cursor: str | None


class ApplyRequest(Spec):
    """Manifests, in the order in which they are applied. With `dry_run` nothing is stored."""

    manifests: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    dry_run: bool = False


class ChangeDocument(BaseModel):
    """One value that differs. What was not there is null."""

    path: str
    before: Any
    after: Any


class AppliedDocument(BaseModel):
    """What apply did, or with `dry_run` would do, to one resource."""

    action: Literal["created", "updated", "unchanged"]
    changes: list[ChangeDocument]
    notes: list[str]
    resource: ResourceDocument

    @classmethod
    def of(cls, applied: Applied) -> AppliedDocument:
        return cls(
            action=applied.action.value,
            changes=[ChangeDocument(path=c.path, before=c.before, after=c.after) for c in applied.changes],
            notes=list(applied.notes),
            resource=ResourceDocument.of(applied.resource),
        )


class ApplyResults(BaseModel):
    """One result a manifest, in their order."""

    results: list[AppliedDocument]


class DeletionDocument(BaseModel):
    """The resource as it goes away; `notes` say what stays."""

    resource: ResourceDocument
    notes: list[str]


class EventDocument(BaseModel):
    """What happened. `reason` is for machines, `message` for people, `data` the numbers behind it."""

    seq: int
    at: datetime
    workspace: str
    kind: str
    name: str
    uid: str
    reason: str
    message: str
    level: Literal["normal", "warning"]
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> EventDocument:
        return cls(
            seq=event.seq,
            at=event.at,
            workspace=event.ref.workspace,
            kind=event.ref.kind,
            name=event.ref.name,
            uid=event.uid,
            reason=event.reason,
            message=event.message,
            level=event.level.value,
            data=event.data,
        )


class EventPage(BaseModel):
    """Oldest first. `cursor` is where to go on, also when there is nothing yet."""

    items: list[EventDocument]
    cursor: str


class KindDocument(BaseModel):
    """A kind of resource: `json_schema` is of its spec."""

    name: str
    plural: str
    short: list[str]
    description: str
    json_schema: dict[str, Any]
    example: dict[str, Any]


class KindList(BaseModel):
    items: list[KindDocument]


class NodeDocument(BaseModel):
    """A machine, as its agent last described it. Since `away_at` it has not answered."""

    name: str
    capacity: Resources
    labels: dict[str, str]
    taints: list[str]
    isolation: bool
    isolation_note: str
    notes: list[str]
    cordoned: bool
    drain_by: datetime | None = None
    drain_reason: str = ""
    seen_at: datetime
    away_at: datetime | None = None

    @classmethod
    def fields_of(cls, node: Node) -> dict[str, Any]:
        seen = node.observation
        return {
            "name": seen.name,
            "capacity": seen.capacity,
            "labels": seen.labels,
            "taints": list(seen.taints),
            "isolation": seen.isolation,
            "isolation_note": seen.isolation_note,
            "notes": list(seen.notes),
            "cordoned": node.cordoned,
            "drain_by": node.drain_by,
            "drain_reason": node.drain_reason,
            "seen_at": node.seen_at,
            "away_at": node.away_at,
        }


class NodeWorkload(BaseModel):
    """One replica with room on a node; with `leaves_by` it was told to leave by then."""

    workspace: str
    kind: str
    name: str
    key: str
    priority: int
    leaves_by: datetime | None


class NodeDetail(NodeDocument):
    """A machine with what is taken of it: cores, bytes, GPUs. `claims` counts the replicas of all workspaces."""

    used_cpu: float
    used_memory: int
    used_gpu: int
    claims: int
    workloads: list[NodeWorkload]


class NodeList(BaseModel):
    items: list[NodeDetail]


class QueueEntry(BaseModel):
    """What is placed together. `position` counts from 1 over all workspaces; `waited` is in seconds.

    `behind` is who stands before it, null at the head.
    """

    position: int
    kind: str
    name: str
    priority: int
    replicas: int
    waited: float
    behind: str | None
    reason: str


class WaitingList(BaseModel):
    """`length` is that of the whole queue."""

    items: list[QueueEntry]
    length: int


class StatusDocument(BaseModel):
    """The platform. `counts` is kind → phase → how many; `isolation` is null before a node is known."""

    version: str
    url: str
    s3_url: str | None
    nodes: list[NodeDocument]
    isolation: bool | None
    counts: dict[str, dict[str, int]]


class HealthDocument(BaseModel):
    status: Literal["ok"]
    version: str


class PrincipalDocument(BaseModel):
    """The key that asks. `workspace` null: every workspace."""

    name: str
    workspace: str | None
    read_only: bool


class KeyRequest(Spec):
    """A key for every workspace, or bound to one; with `read_only` it may not change anything."""

    name: Name
    workspace: WorkspaceName | None = None
    read_only: bool = False

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ci", "workspace": "default"}]})


class KeyDocument(PrincipalDocument):
    created_at: datetime


class NewKeyDocument(KeyDocument):
    """`key` is shown here and never again."""

    key: str


class KeyList(BaseModel):
    items: list[KeyDocument]
