"""HTTP of the catalogues: what can be named."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import Connection, select

from modelworks.db.tables import resources as rows
from modelworks.kernel.catalogue import EnvironmentSpec, InstanceType, InstanceTypeSpec
from modelworks.kernel.spec import Spec
from modelworks.products.context import ContextOf, WorkspaceOf

_routes = APIRouter(tags=["catalogue"])


def router() -> APIRouter:
    return _routes


class InstanceTypes(Spec):
    """By name."""

    items: list[InstanceType]
    currency: str


class NamedEnvironment(Spec):
    """An environment and the digest under which it is built."""

    name: str
    digest: str
    requirements: list[str]
    python: str | None
    image: str | None
    description: str


class Environments(Spec):
    """By name."""

    items: list[NamedEnvironment]


@_routes.get("/instance-types", summary="Instance types", operation_id="listInstanceTypes")
def list_instance_types(context: ContextOf, workspace: WorkspaceOf) -> InstanceTypes:
    """The shipped ones, over them those of the settings, over them the workspace's own."""
    found = {instance_type.name: instance_type for instance_type in context.settings.instance_types_all()}
    with context.engine.connect() as connection:
        for name, spec in _own(connection, workspace, "InstanceType"):
            found[name] = InstanceType.of(name, InstanceTypeSpec.parse(spec))
    return InstanceTypes(items=[found[name] for name in sorted(found)], currency=context.settings.currency)


@_routes.get("/environments", summary="Environments", operation_id="listEnvironments")
def list_environments(context: ContextOf, workspace: WorkspaceOf) -> Environments:
    """The shipped ones, over them those of the settings, over them the workspace's own."""
    found = dict(context.settings.environments_all())
    with context.engine.connect() as connection:
        for name, spec in _own(connection, workspace, "Environment"):
            found[name] = EnvironmentSpec.parse(spec)
    return Environments(items=[_named(name, found[name]) for name in sorted(found)])


def _own(connection: Connection, workspace: str, kind: str) -> list[tuple[str, object]]:
    query = select(rows.c.name, rows.c.spec).where(rows.c.workspace == workspace, rows.c.kind == kind)
    return [(row.name, row.spec) for row in connection.execute(query.where(rows.c.deleting.is_(None)))]


def _named(name: str, spec: EnvironmentSpec) -> NamedEnvironment:
    return NamedEnvironment(
        name=name,
        digest=spec.ref(name).digest,
        requirements=list(spec.requirements),
        python=spec.python,
        image=spec.image,
        description=spec.description,
    )
