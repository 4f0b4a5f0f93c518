"""The names in a service's spec made facts, at apply."""

from __future__ import annotations

from typing import Any

from modelworks.kernel.errors import FieldError, Invalid, NotFound
from modelworks.kernel.resource import Metadata
from modelworks.kernel.run import Resources
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.registry.facade import ModelVersion, find_version
from modelworks.products.resolution import Resolution
from modelworks.products.serving import adapters, images
from modelworks.products.serving.revisions import CANARY_FIELDS, RESUMED, overlaid, revision
from modelworks.products.serving.schedule import problems as schedule_problems
from modelworks.products.serving.spec import ServiceSpec
from modelworks.products.serving.templates import default_environment, notes

_SCHEMES = ("s3://", "oss://")


def resolve(metadata: Metadata, spec: ServiceSpec, lookup: Lookup) -> Resolved:
    """Raises Invalid with the path of what is not known; an alias is what it names now."""
    if "." in metadata.name:
        said = f"the name of a service holds no dots: {metadata.name!r} would not be told from workspace.service"
        raise Invalid(said, fields=(FieldError("metadata.name", said),))
    if spec.autoscaling is not None and (wrong := schedule_problems(spec.autoscaling, "spec.autoscaling")):
        raise Invalid(wrong[0].message, fields=tuple(wrong))
    found = _facts(metadata, spec, lookup)
    data, notes = dict(found.data), list(found.notes)
    if spec.canary is not None:
        canary = canary_facts(metadata, spec, lookup)
        data["canary"] = canary.data
        notes += [note for note in canary.notes if note not in notes]
        if revision(ServiceSpec.parse(overlaid(spec.dump()), at="spec"), canary.data) == revision(spec, found.data):
            notes.append("the canary is the service's own revision: nothing of it differs")
    stored = lookup.resource(metadata.workspace, "Service", metadata.name)
    if stored is not None and RESUMED in stored.resolved:
        # No fact of the spec, so it outlasts every apply.
        data[RESUMED] = stored.resolved[RESUMED]
    return Resolved(data, tuple(notes))


def canary_facts(metadata: Metadata, spec: ServiceSpec, lookup: Lookup) -> Resolved:
    """Of the service with the canary's fields in their place."""
    try:
        return _facts(metadata, ServiceSpec.parse(overlaid(spec.dump()), at="spec"), lookup)
    except Invalid as error:
        given = {f"spec.{name}" for name in CANARY_FIELDS if getattr(spec.canary, name) is not None}
        fields = tuple(
            FieldError(field.path.replace("spec", "spec.canary", 1), field.message)
            if _below(field.path, given)
            else field
            for field in error.fields
        )
        raise Invalid(f"the canary: {error.detail}", fields=fields, remedy=error.remedy) from None


def _below(path: str, given: set[str]) -> bool:
    return path == "spec" or any(path == one or path.startswith(f"{one}.") for one in given)


def _facts(metadata: Metadata, spec: ServiceSpec, lookup: Lookup) -> Resolved:
    resolution = Resolution("Service", metadata, lookup)
    resolution.workload(spec, default_environment=default_environment(spec))
    images.resolve(resolution, spec)
    if spec.model is not None:
        resolution.data["model"], version = _model(resolution, spec.model, "spec.model")
        base = _base(resolution, spec, version) if version is not None else spec.base_model
        if base is not None:
            resolution.data["base_model"], _ = _model(resolution, base, "spec.base_model")
    if spec.warm_up is not None:
        resolution.data["warm_up"] = resolution.uri(spec.warm_up, "spec.warm_up")
    if spec.mounts:
        resolution.data["mounts"] = {
            path: resolution.uri(uri, f"spec.mounts.{path}") for path, uri in sorted(spec.mounts.items())
        }
    if spec.capture is not None:
        resolution.data["capture"] = resolution.uri(spec.capture.uri, "spec.capture.uri", folder=True, write=True)
        bucket = str(resolution.data["capture"]).removeprefix("s3://").partition("/")[0]
        if bucket != f"mw-{metadata.workspace}" and lookup.resource(metadata.workspace, "Bucket", bucket) is None:
            resolution.notes.append(
                f"capture: this workspace has no bucket {bucket}: what cannot be written is dropped"
            )
    resolution.notes += notes(spec, Resources.parse(resolution.data["resources"]))
    return resolution.resolved()


def _base(resolution: Resolution, spec: ServiceSpec, version: ModelVersion) -> str | None:
    """What the model is laid over: the spec's, else the registered model that an adapter says it was trained on."""
    if not adapters.is_adapter(str(file["path"]) for file in version.files):
        return spec.base_model
    refused = adapters.refusal(spec)
    if refused is not None:
        raise Invalid(f"{spec.model}: {refused}", fields=(FieldError("spec.processor", refused),))
    if spec.base_model is not None:
        return spec.base_model
    trained_on = str(version.lineage.get("base_model") or "")
    for name in (trained_on,) if trained_on.startswith(_SCHEMES) else adapters.references(trained_on):
        if name.startswith(_SCHEMES) or _registered(resolution, name):
            resolution.notes.append(f"base_model {name}: {spec.model} was trained on {trained_on}")
            return name
    if not adapters.needs_base(spec):
        return None
    said = adapters.missing(trained_on)
    raise Invalid(f"{spec.model}: {said}", fields=(FieldError("spec.base_model", said),))


def _registered(resolution: Resolution, reference: str) -> bool:
    try:
        find_version(resolution.lookup.connection, resolution.workspace, reference)
    except (NotFound, Invalid):
        return False
    return True


def _model(resolution: Resolution, wanted: str, path: str) -> tuple[dict[str, Any], ModelVersion | None]:
    """The facts of a model, and its version where it is a registered one."""
    substitution = resolution.lookup.settings.substitute("model", wanted)
    resolution.substituted(substitution)
    reference = substitution.used if substitution else wanted
    if reference.startswith(_SCHEMES):
        # A prefix has no digest of its own: what is in it when a replica starts is what it serves.
        # One file or all below it, which only the node finds out.
        return {"uri": resolution.uri(reference, path)}, None
    found = find_version(resolution.lookup.connection, resolution.workspace, reference, path=path)
    if found.note is not None:
        resolution.notes.append(found.note)
    return {"uri": found.uri, "digest": found.digest, "version": found.version, "size": found.size}, found
