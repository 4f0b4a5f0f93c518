"""The names in a service's spec made facts, at apply."""

from __future__ import annotations

from typing import Any

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.resource import Metadata
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.registry.facade import find_version
from modelworks.products.resolution import Resolution
from modelworks.products.serving.spec import ServiceSpec
from modelworks.products.serving.templates import default_environment

_SCHEMES = ("s3://", "oss://")


def resolve(metadata: Metadata, spec: ServiceSpec, lookup: Lookup) -> Resolved:
    """Raises Invalid with the path of what is not known; an alias is what it names now."""
    if "." in metadata.name:
        said = f"the name of a service holds no dots: {metadata.name!r} would not be told from workspace.service"
        raise Invalid(said, fields=(FieldError("metadata.name", said),))
    resolution = Resolution("Service", metadata, lookup)
    resolution.workload(spec, default_environment=default_environment(spec))
    if spec.model is not None:
        resolution.data["model"] = _model(resolution, spec.model)
    return resolution.resolved()


def _model(resolution: Resolution, wanted: str) -> dict[str, Any]:
    substitution = resolution.lookup.settings.substitute("model", wanted)
    resolution.substituted(substitution)
    reference = substitution.used if substitution else wanted
    if reference.startswith(_SCHEMES):
        # A prefix has no digest of its own: what is in it when a replica starts is what it serves.
        return {"uri": resolution.uri(reference, "spec.model", folder=not reference.endswith(".onnx"))}
    found = find_version(resolution.lookup.connection, resolution.workspace, reference, path="spec.model")
    if found.note is not None:
        resolution.notes.append(found.note)
    return {"uri": found.uri, "digest": found.digest, "version": found.version, "size": found.size}
