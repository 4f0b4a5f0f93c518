"""HTTP of the registry: versions of models, and their aliases."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field

from modelworks.db import resources
from modelworks.kernel.errors import FieldError, Invalid, NotFound
from modelworks.kernel.resource import Name, Ref
from modelworks.kernel.spec import Spec
from modelworks.products.context import ContextOf, NamePath, PageSize, PrincipalOf, WorkspaceOf
from modelworks.products.registry import queries
from modelworks.products.registry.aliases import remove_alias, set_alias
from modelworks.products.registry.queries import ModelVersion
from modelworks.products.registry.register import Candidate, job_candidate, register
from modelworks.products.registry.spec import LARGEST_VERSION, Alias, VersionNumber
from modelworks.products.storage.facade import check_reach, parse_uri

_routes = APIRouter(prefix="/models", tags=["models"])


def router() -> APIRouter:
    return _routes


MetricName = Annotated[str, Field(min_length=1, max_length=256)]
VersionPath = Annotated[int, Path(ge=1, le=LARGEST_VERSION, description="The number of a version.")]
AliasPath = Annotated[Alias, Path(description="The alias, such as prod.", examples=["prod"])]


class Registration(Spec):
    """What becomes the next version: the files at ``uri``, or the output of the training job ``job``."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    job: Name | None = None
    metrics: dict[MetricName, float] = Field(default_factory=dict, max_length=1000)
    description: str = Field(default="", max_length=4096)

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"job": "digits", "description": "first training"},
                {"uri": "s3://digits/model/", "metrics": {"accuracy": 0.97}},
            ]
        }
    )


class ModelFile(Spec):
    """A file below the version's URI. ``digest`` is ``sha256:<hex>`` or ``etag:<text>``."""

    path: str
    size: int
    digest: str


class Version(Spec):
    """An immutable version of a model, and where it came from."""

    workspace: str
    model: str
    version: int
    uri: str
    digest: str
    size: int
    files: list[ModelFile]
    metrics: dict[str, float]
    lineage: dict[str, Any]
    description: str
    created_at: datetime
    aliases: list[str]


class Versions(Spec):
    """The newest first."""

    items: list[Version]
    next_cursor: int | None


class AliasTarget(Spec):
    """Which version an alias is."""

    version: VersionNumber

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 1}]})


class Aliases(Spec):
    """Every alias of a model."""

    model: str
    aliases: dict[str, int]


@_routes.get("/{name}/versions", summary="Versions of a model", operation_id="listModelVersions")
def list_model_versions(
    name: NamePath,
    context: ContextOf,
    workspace: WorkspaceOf,
    limit: PageSize = 100,
    cursor: Annotated[
        int | None, Query(ge=1, le=LARGEST_VERSION, description="`next_cursor` of the page before.")
    ] = None,
) -> Versions:
    """Newest first."""
    with context.engine.connect() as connection:
        model = resources.get(connection, Ref(workspace, "Model", name))
        if model is None:
            raise NotFound(f"there is no model {name} in the workspace {workspace}")
        found = queries.list_versions(connection, workspace, name, cursor, limit + 1)
    aliases = model.spec.get("aliases", {})
    items = [_document(version, aliases) for version in found[:limit]]
    return Versions(items=items, next_cursor=items[-1].version if len(found) > limit else None)


@_routes.post("/{name}/versions", status_code=201, summary="Register a version", operation_id="registerModelVersion")
def register_version(
    name: NamePath, body: Registration, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf
) -> Version:
    """Files become the next version: copied, so that nobody changes it. The model is made when it is not there."""
    if (body.uri is None) == (body.job is None):
        said = "give one of uri and job"
        raise Invalid(said, fields=(FieldError("uri", said), FieldError("job", said)))
    with context.engine.connect() as connection:
        if body.uri is not None:
            candidate = Candidate(parse_uri(body.uri, "uri"), "uri", body.description, body.metrics, {"uri": body.uri})
        else:
            assert body.job is not None
            candidate = job_candidate(connection, workspace, body.job, body.description, body.metrics)
        check_reach(connection, principal, workspace, candidate.uri)
    return _document(register(context, workspace, name, candidate), {})


@_routes.get("/{name}/versions/{version}", summary="One version", operation_id="getModelVersion")
def get_version(name: NamePath, version: VersionPath, context: ContextOf, workspace: WorkspaceOf) -> Version:
    """With its files, metrics and lineage."""
    with context.engine.connect() as connection:
        found = queries.find_version(connection, workspace, f"{name}:{version}")
        model = resources.get(connection, Ref(workspace, "Model", name))
    return _document(found, model.spec.get("aliases", {}) if model else {})


@_routes.put("/{name}/aliases/{alias}", summary="Point an alias at a version", operation_id="setModelAlias")
def put_alias(
    name: NamePath, alias: AliasPath, body: AliasTarget, context: ContextOf, workspace: WorkspaceOf
) -> Aliases:
    """Services that name the alias take the new version when they are applied again."""
    with context.engine.begin() as connection:
        stored = set_alias(connection, workspace, name, alias, body.version)
    return Aliases(model=name, aliases=stored.spec["aliases"])


@_routes.delete("/{name}/aliases/{alias}", summary="Remove an alias", operation_id="removeModelAlias")
def delete_alias(name: NamePath, alias: AliasPath, context: ContextOf, workspace: WorkspaceOf) -> Aliases:
    """Services that were applied with it keep the version it was then."""
    with context.engine.begin() as connection:
        stored = remove_alias(connection, workspace, name, alias)
    return Aliases(model=name, aliases=stored.spec["aliases"])


def _document(version: ModelVersion, aliases: dict[str, int]) -> Version:
    return Version(
        workspace=version.workspace,
        model=version.model,
        version=version.version,
        uri=version.uri,
        digest=version.digest,
        size=version.size,
        files=[ModelFile.parse(file) for file in version.files],
        metrics=dict(version.metrics),
        lineage=dict(version.lineage),
        description=version.description,
        created_at=version.created_at,
        aliases=sorted(alias for alias, number in aliases.items() if number == version.version),
    )
