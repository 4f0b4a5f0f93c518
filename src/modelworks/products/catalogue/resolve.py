"""Names of instance types and environments made facts, at apply.

A name is looked up in the workspace's resources, then in the settings, then in the shipped catalogue. Substitutions of
the settings come before all of them and apply once; each is returned, to be shown and recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from sqlalchemy import Connection, select

from modelworks.db.tables import resources as rows
from modelworks.kernel.catalogue import EnvironmentSpec, InstanceType, InstanceTypeSpec, Substitution
from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.run import EnvironmentRef, Resources
from modelworks.products.kind import Lookup

DEFAULT_ENVIRONMENT = "default"


@dataclass(frozen=True)
class EnvironmentChoice:
    """The environment that a name stands for, and what was replaced on the way."""

    ref: EnvironmentRef
    substitution: Substitution | None = None


@dataclass(frozen=True)
class Shape:
    """What one run occupies and costs. ``instance_type`` is ``custom`` for resources without a name."""

    instance_type: str
    resources: Resources
    price_per_hour: float
    substitution: Substitution | None = None
    spot_price_per_hour: float | None = None


def resolve_environment(
    lookup: Lookup, workspace: str, value: str | Mapping[str, object] | EnvironmentSpec | None, path: str
) -> EnvironmentChoice:
    """A name, an inline ``{requirements, python}`` or ``{image}`` (None: ``default``) → an environment.

    Raises Invalid at ``path`` for a name that is not known, with the nearest ones.
    """
    if value is None:
        value = DEFAULT_ENVIRONMENT
    if isinstance(value, Mapping):
        value = EnvironmentSpec.parse(value, at=path)
    if isinstance(value, EnvironmentSpec):
        if value.image is None or lookup.settings.kept("image", value.image):
            return EnvironmentChoice(value.ref())
        used = lookup.settings.substitute("image", value.image) or lookup.settings.environment_alias(value.image)
        if used is None:
            return EnvironmentChoice(value.ref())
        return EnvironmentChoice(_instead(lookup, workspace, used.used, f"{path}.image"), used)
    used = lookup.settings.substitute("image", value)
    if used is None and find_environment(lookup, workspace, value) is None:
        used = lookup.settings.environment_alias(value)
    return EnvironmentChoice(_environment(lookup, workspace, used.used if used else value, path), used)


def resolve_image(lookup: Lookup, workspace: str, image: str, path: str) -> EnvironmentChoice:
    """A reference that is meant as an image: the shipped aliases do not count, the user's own substitutions do.

    Raises Invalid at ``path`` for what is no reference.
    """
    used = lookup.settings.substitute("image", image)
    if used is not None:
        return EnvironmentChoice(_instead(lookup, workspace, used.used, path), used)
    return EnvironmentChoice(_in_image(image, path))


def resolve_shape(
    lookup: Lookup, workspace: str, instance_type: str | None, resources: Resources | None, path: str
) -> Shape:
    """An instance type's name, or resources priced by the settings → a shape.

    ``path`` is of the object that holds the two fields, such as ``spec``. Raises Invalid when both or neither are
    given, and for a name that is not known, with the nearest ones.
    """
    if (instance_type is None) == (resources is None):
        said = "give one of instance_type and resources" + (", not both" if resources is not None else "")
        raise Invalid(said, fields=(FieldError(f"{path}.instance_type", said),))
    if resources is not None:
        return Shape("custom", resources, lookup.settings.price(resources))
    assert instance_type is not None
    used = lookup.settings.substitute("instance_type", instance_type)
    name = used.used if used else instance_type
    found = find_instance_type(lookup, workspace, name)
    if found is None:
        known = [t.name for t in lookup.settings.instance_types_all()]
        known += _names(lookup.connection, workspace, "InstanceType")
        raise _unknown("instance type", name, known, f"{path}.instance_type", "mw get instance-types")
    return Shape(found.name, found.resources, found.price_per_hour, used, found.spot_price_per_hour)


def find_instance_type(lookup: Lookup, workspace: str, name: str) -> InstanceType | None:
    """The workspace's own type of that name, else the settings', else the shipped one. Substitutes nothing."""
    own = lookup.resource(workspace, "InstanceType", name)
    if own is not None and own.deleting is None:
        return InstanceType.of(name, InstanceTypeSpec.parse(own.spec))
    return lookup.settings.find_instance_type(name)


def find_environment(lookup: Lookup, workspace: str, name: str) -> EnvironmentSpec | None:
    """The workspace's own environment of that name, else the settings', else the shipped one. Follows no alias."""
    own = lookup.resource(workspace, "Environment", name)
    if own is not None and own.deleting is None:
        return EnvironmentSpec.parse(own.spec)
    return lookup.settings.find_environment(name)


def _instead(lookup: Lookup, workspace: str, name: str, path: str) -> EnvironmentRef:
    """What stands for an image: an environment by its name, or another image, such as the same in a nearer registry."""
    if ("/" in name or ":" in name) and find_environment(lookup, workspace, name) is None:
        return _in_image(name, path)
    return _environment(lookup, workspace, name, path)


def _in_image(image: str, path: str) -> EnvironmentRef:
    try:
        return EnvironmentSpec(image=image).ref()
    except ValueError as error:
        said = f"not an image reference: {image!r}; write it as registry/name:tag"
        raise Invalid(said, fields=(FieldError(path, said),)) from error


def _environment(lookup: Lookup, workspace: str, name: str, path: str) -> EnvironmentRef:
    found = find_environment(lookup, workspace, name)
    if found is None:
        known = [*lookup.settings.environments_all(), *_names(lookup.connection, workspace, "Environment")]
        raise _unknown("environment", name, known, path, "mw get environments")
    return found.ref(name)


def _names(connection: Connection, workspace: str, kind: str) -> list[str]:
    query = select(rows.c.name).where(rows.c.workspace == workspace, rows.c.kind == kind, rows.c.deleting.is_(None))
    return list(connection.scalars(query.limit(1000)))


def _unknown(noun: str, name: str, known: Iterable[str], path: str, command: str) -> Invalid:
    near = get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
    said = f"no {noun} is called {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    return Invalid(said, fields=(FieldError(path, said),), remedy=f"`{command}` lists them all")
