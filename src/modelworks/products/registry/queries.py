"""Named SQL of the registry.

A version belongs to the model resource of its name that was there when it was made: of a deleted and remade model, the
versions of before are not seen any more, and their numbers are not used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, cast, func, or_, select
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH, insert

from modelworks.db.tables import model_versions as versions
from modelworks.db.tables import resources
from modelworks.kernel.errors import FieldError, Invalid, ModelworksError, NotFound
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.registry.reference import near, parse_reference

_OF_A_REVISION = "$.revisions.*.spec.model ? (@ == $name || @ starts with $version || @ starts with $alias)"


@dataclass(frozen=True)
class ModelVersion:
    """An immutable version. ``files`` are ``{path, size, digest}`` below ``uri``.

    ``note`` says which version a name was taken for.
    """

    workspace: str
    model: str
    version: int
    uri: str
    digest: str
    size: int
    files: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, float]
    lineage: Mapping[str, Any]
    description: str
    created_at: datetime
    note: str | None = None


def find_version(connection: Connection, workspace: str, reference: str, *, path: str | None = None) -> ModelVersion:
    """The version that ``name:1``, ``name@alias`` or ``name`` (the latest) stands for.

    Raises NotFound with near matches or, with a ``path``, Invalid there.
    """
    try:
        wanted = parse_reference(reference)
    except ValueError as error:
        raise Invalid("not a model's version", fields=(FieldError(path or "model", str(error)),)) from None
    spec = connection.scalar(_model(workspace, wanted.name, resources.c.spec))
    if spec is None:
        known = list(connection.scalars(_models(workspace)))
        raise _missing(
            f"no model is called {wanted.name!r}{near(wanted.name, known)}", path, "`mw model list` shows them"
        )
    number, note = wanted.version, None
    if wanted.alias is not None:
        aliases: dict[str, int] = spec.get("aliases", {})
        number = aliases.get(wanted.alias)
        if number is None:
            has = ", ".join(sorted(aliases)) or "none"
            said = f"the model {wanted.name} has no alias {wanted.alias!r}{near(wanted.alias, list(aliases))}"
            raise _missing(f"{said} (its aliases: {has})", path, f"`mw model get {wanted.name}` shows it")
        note = f"{wanted} is version {number}"
    query = select(versions).where(_visible(workspace, wanted.name)).order_by(versions.c.version.desc()).limit(1)
    if number is not None:
        query = query.where(versions.c.version == number)
    row = connection.execute(query).one_or_none()
    if row is None:
        numbers = [str(n) for n in connection.scalars(_numbers(workspace, wanted.name))]
        has = ", ".join(numbers[:10]) or "none"
        what = f"version {number}" if number is not None else "version"
        raise _missing(
            f"the model {wanted.name} has no {what} (its versions: {has})", path, "`mw model register` makes one"
        )
    if wanted.version is None and wanted.alias is None:
        note = f"{wanted} is taken for its latest version, {row.version}"
    return _version(row, note)


def list_versions(
    connection: Connection, workspace: str, model: str, before: int | None = None, limit: int = 100
) -> list[ModelVersion]:
    """The newest first, older than ``before``."""
    query = select(versions).where(_visible(workspace, model))
    if before is not None:
        query = query.where(versions.c.version < before)
    rows = connection.execute(query.order_by(versions.c.version.desc()).limit(limit))
    return [_version(row) for row in rows]


def existing_versions(connection: Connection, workspace: str, model: str, numbers: Sequence[int]) -> set[int]:
    """Which of these versions there are."""
    query = _numbers(workspace, model).where(versions.c.version.in_(numbers))
    return set(connection.scalars(query))


def summaries(connection: Connection, models: Sequence[Resource]) -> dict[str, tuple[int, int | None, int]]:
    """uid → how many versions, the latest, and the bytes of all; a model without a version is missing."""
    its_own = and_(
        versions.c.workspace == resources.c.workspace,
        versions.c.model == resources.c.name,
        versions.c.retired_at.is_(None),
        versions.c.created_at >= resources.c.created_at,
    )
    query = (
        select(resources.c.uid, func.count(), func.max(versions.c.version), func.sum(versions.c.size))
        .select_from(resources.join(versions, its_own))
        .where(resources.c.uid.in_([model.uid for model in models if model.ref.kind == "Model"]))
        .group_by(resources.c.uid)
    )
    return {uid: (count, latest, int(size)) for uid, count, latest, size in connection.execute(query)}


def add_version(
    connection: Connection,
    workspace: str,
    model: str,
    *,
    uri: str,
    digest: str,
    size: int,
    files: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
    description: str,
) -> ModelVersion:
    """The next version. The caller holds the lock of the model's row: two never get the same number."""
    taken = select(func.coalesce(func.max(versions.c.version), 0)).where(
        versions.c.workspace == workspace, versions.c.model == model
    )
    statement = insert(versions).values(
        workspace=workspace,
        model=model,
        version=(connection.scalar(taken) or 0) + 1,
        uri=uri,
        digest=digest,
        size=size,
        files=list(files),
        metrics=dict(metrics),
        lineage=dict(lineage),
        description=description,
        # Not the transaction's time: the model may have been made after this transaction began.
        created_at=func.clock_timestamp(),
    )
    return _version(connection.execute(statement.returning(versions)).one())


def users(connection: Connection, workspace: str, model: str) -> list[Ref]:
    """The services whose spec names the model, or has replicas of a revision that does."""
    name = resources.c.spec["model"].astext
    names = {"name": model, "version": f"{model}:", "alias": f"{model}@"}
    query = select(resources.c.name).where(
        resources.c.workspace == workspace,
        resources.c.kind == "Service",
        or_(
            name == model,
            name.startswith(f"{model}:", autoescape=True),
            name.startswith(f"{model}@", autoescape=True),
            func.jsonb_path_exists(resources.c.status, cast(_OF_A_REVISION, JSONPATH), cast(names, JSONB)),
        ),
    )
    return [Ref(workspace, "Service", row.name) for row in connection.execute(query.order_by(resources.c.name))]


def _model(workspace: str, model: str, column: Any) -> Any:
    return select(column).where(
        resources.c.workspace == workspace,
        resources.c.kind == "Model",
        resources.c.name == model,
        resources.c.deleting.is_(None),
    )


def _models(workspace: str) -> Any:
    query = select(resources.c.name).where(resources.c.workspace == workspace, resources.c.kind == "Model")
    return query.where(resources.c.deleting.is_(None)).limit(1000)


def _visible(workspace: str, model: str) -> Any:
    made = _model(workspace, model, resources.c.created_at).scalar_subquery()
    return and_(
        versions.c.workspace == workspace,
        versions.c.model == model,
        versions.c.retired_at.is_(None),
        versions.c.created_at >= made,
    )


def _numbers(workspace: str, model: str) -> Any:
    return select(versions.c.version).where(_visible(workspace, model)).order_by(versions.c.version.desc())


def _missing(said: str, path: str | None, remedy: str) -> ModelworksError:
    if path is None:
        return NotFound(said, remedy=remedy)
    return Invalid(said, fields=(FieldError(path, said),), remedy=remedy)


def _version(row: Row[Any], note: str | None = None) -> ModelVersion:
    return ModelVersion(
        workspace=row.workspace,
        model=row.model,
        version=row.version,
        uri=row.uri,
        digest=row.digest,
        size=row.size,
        files=tuple(row.files),
        metrics=row.metrics,
        lineage=row.lineage,
        description=row.description,
        created_at=row.created_at,
        note=note,
    )
