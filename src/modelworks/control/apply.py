"""Apply: what users declare becomes rows. All documents of one call are stored, or none is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine

from modelworks.db import events, resources
from modelworks.kernel.errors import Conflict, FieldError, Invalid, ModelworksError
from modelworks.kernel.principal import PLATFORM, Principal
from modelworks.kernel.resource import Manifest, Ref, Resource
from modelworks.kernel.spec import changed_paths
from modelworks.products.kind import Kind, Lookup, check_may_write
from modelworks.settings import Settings

_MOST_TOLD = 5


class Outcome(StrEnum):
    """What apply did, or would do, to one resource."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Change:
    """One leaf that differs: ``spec.replicas``, ``metadata.labels.team``, ``resolved.model.digest``."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Applied:
    """One document's result. ``notes`` are for people: substitutions, defaults that were picked."""

    action: Outcome
    resource: Resource
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Document:
    """A validated manifest. ``at`` is its path in the call: ``manifests.0.``, or empty when there is only one."""

    at: str
    kind: Kind
    manifest: Manifest
    spec: Any

    @property
    def ref(self) -> Ref:
        return Ref(self.manifest.metadata.workspace, self.kind.name, self.manifest.metadata.name)


def apply(
    engine: Engine,
    manifests: Sequence[Mapping[str, Any]],
    settings: Settings,
    kinds: Mapping[str, Kind],
    *,
    principal: Principal = PLATFORM,
    dry_run: bool = False,
) -> list[Applied]:
    """Create, replace or leave each resource, in the order given; a document may name those before it.

    With ``dry_run`` everything is checked and compared and nothing is stored. Raises Invalid with the path of every
    wrong field (``spec.replicas``; ``manifests.1.spec.replicas`` when there are several documents), Conflict for a
    change of what cannot change or of a resource that is being deleted, Forbidden for what ``principal`` may not name.
    """
    documents = _validated(manifests, kinds)
    with engine.connect() as connection, connection.begin() as transaction:
        applied = [_apply_one(connection, document, settings, principal) for document in documents]
        if dry_run:
            transaction.rollback()
    return applied


def _validated(manifests: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind]) -> list[_Document]:
    """Every document, or Invalid with the wrong fields of all of them."""
    if not manifests:
        raise Invalid("there is nothing to apply", fields=(FieldError("manifests", "name at least one document"),))
    documents: list[_Document] = []
    wrong: list[Invalid] = []
    for index, data in enumerate(manifests):
        try:
            documents.append(_document(data, f"manifests.{index}." if len(manifests) > 1 else "", kinds))
        except Invalid as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise Invalid(
            f"{len(wrong)} of {len(manifests)} documents are wrong",
            fields=tuple(field for error in wrong for field in error.fields),
        )
    first: dict[Ref, str] = {}
    for document in documents:
        if document.ref in first:
            path = f"{document.at}metadata.name"
            raise Invalid(
                f"{document.ref} is declared twice", fields=(FieldError(path, f"also in {first[document.ref]}"),)
            )
        first[document.ref] = document.at.rstrip(".")
    return documents


def _document(data: Mapping[str, Any], at: str, kinds: Mapping[str, Kind]) -> _Document:
    manifest = Manifest.parse(data, at=at.rstrip("."))
    kind = kinds.get(manifest.kind)
    if kind is None:
        known = ", ".join(sorted(kinds))
        close = get_close_matches(manifest.kind, kinds, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise Invalid(
            f"there is no kind {manifest.kind!r}{hint}", fields=(FieldError(f"{at}kind", f"use one of {known}"),)
        )
    return _Document(at, kind, manifest, kind.spec.parse(manifest.spec, at=f"{at}spec"))


def _apply_one(connection: Connection, document: _Document, settings: Settings, principal: Principal) -> Applied:
    metadata = document.manifest.metadata
    check_may_write(document.kind, principal)
    lookup = Lookup(
        connection,
        settings,
        lambda workspace, kind, name: resources.get(connection, Ref(workspace, kind, name)),
        principal,
    )
    try:
        found = document.kind.resolve(metadata, document.spec, lookup)
    except ModelworksError as error:
        raise _placed(error, document.at) from error
    spec, labels = document.spec.dump(), dict(metadata.labels)
    stored = resources.lock(connection, document.ref)
    if stored is None:
        created = resources.insert_new(connection, document.ref, spec, found.data, labels)
        if created is not None:
            events.append(connection, created.ref, created.uid, "Created", "created", data={"generation": 1})
            changes = _differences({}, {}, {}, spec, found.data, labels)
            return Applied(Outcome.CREATED, created, changes, found.notes)
        # Somebody else was faster; the row is there now.
        stored = resources.lock(connection, document.ref)
    if stored is None or stored.deleting is not None:
        raise Conflict(
            f"{document.ref} is being deleted", remedy="wait until it is gone, or use another name", retry_after=1.0
        )
    # Of what never changes, neither do the facts its names stood for when it was made.
    frozen = "spec" in document.kind.immutable
    resolved = stored.resolved if frozen else found.data
    changes = _differences(stored.spec, stored.resolved, stored.labels, spec, resolved, labels)
    if not changes:
        return Applied(Outcome.UNCHANGED, stored, (), found.notes)
    _check_immutable(document, changes)
    updated = resources.replace(connection, stored.uid, spec, resolved, labels)
    events.append(
        connection, updated.ref, updated.uid, "Updated", _summary(changes), data={"generation": updated.generation}
    )
    return Applied(Outcome.UPDATED, updated, changes, found.notes)


def _differences(
    old_spec: Mapping[str, Any],
    old_resolved: Mapping[str, Any],
    old_labels: Mapping[str, Any],
    spec: Mapping[str, Any],
    resolved: Mapping[str, Any],
    labels: Mapping[str, Any],
) -> tuple[Change, ...]:
    leaves = [
        *changed_paths(old_spec, spec, "spec"),
        *changed_paths(old_labels, labels, "metadata.labels"),
        *changed_paths(old_resolved, resolved, "resolved"),
    ]
    return tuple(Change(*leaf) for leaf in leaves)


def _check_immutable(document: _Document, changes: Sequence[Change]) -> None:
    # A kind may write its paths with or without the leading "spec".
    fixed = [path if path.split(".")[0] == "spec" else f"spec.{path}" for path in document.kind.immutable]
    wrong = [c for c in changes if any(c.path == path or c.path.startswith(f"{path}.") for path in fixed)]
    if wrong:
        raise Conflict(
            f"{document.ref} exists, and what it is cannot change any more",
            remedy="delete it first, or use another name",
            fields=tuple(
                FieldError(f"{document.at}{c.path}", f"is {c.before!r} and cannot become {c.after!r}") for c in wrong
            ),
        )


def _summary(changes: Sequence[Change]) -> str:
    told = [f"{c.path}: {_short(c.before)} → {_short(c.after)}" for c in changes[:_MOST_TOLD]]
    if len(changes) > _MOST_TOLD:
        told.append(f"{len(changes) - _MOST_TOLD} more")
    return "; ".join(told)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _placed(error: ModelworksError, at: str) -> ModelworksError:
    """The error with its paths below the document's own."""
    if not at or not error.fields:
        return error
    fields = tuple(FieldError(f"{at}{field.path}", field.message) for field in error.fields)
    return type(error)(error.detail, remedy=error.remedy, fields=fields, retry_after=error.retry_after)
