"""What apply makes of the names that jobs and services have in common: shapes, environments, URIs, volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from modelworks.kernel.catalogue import EnvironmentSpec, Substitution
from modelworks.kernel.resource import Metadata, Ref
from modelworks.kernel.run import Resources
from modelworks.products.catalogue.facade import resolve_environment, resolve_shape
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.mounts import code_digest
from modelworks.products.storage.facade import check_reach, check_writable, parse_uri, volume_sources
from modelworks.products.workload import VolumeReference

DEFAULT_INSTANCE_TYPE = "local.small"


class Workload(Protocol):
    """The fields that a job's and a service's spec share."""

    @property
    def code(self) -> str | None: ...
    @property
    def environment(self) -> str | EnvironmentSpec | None: ...
    @property
    def instance_type(self) -> str | None: ...
    @property
    def resources(self) -> Resources | None: ...
    @property
    def volumes(self) -> Sequence[VolumeReference]: ...


class Resolution:
    """Collects the facts, the notes and the substitutions of one apply."""

    def __init__(self, kind: str, metadata: Metadata, lookup: Lookup) -> None:
        self.workspace = metadata.workspace
        self.owner = Ref(metadata.workspace, kind, metadata.name)
        self.lookup = lookup
        self.data: dict[str, Any] = {}
        self.notes: list[str] = []
        self._substitutions: list[Substitution] = []

    def workload(self, spec: Workload, *, default_environment: str | None = None) -> None:
        """Everything of :class:`Workload`. Raises Invalid with the path of the first name that is not known."""
        instance_type = spec.instance_type
        if instance_type is None and spec.resources is None:
            instance_type = DEFAULT_INSTANCE_TYPE
        shape = resolve_shape(self.lookup, self.workspace, instance_type, spec.resources, "spec")
        self.substituted(shape.substitution)
        self.data["instance_type"] = shape.instance_type
        self.data["resources"] = shape.resources.dump()
        self.data["price_per_hour"] = shape.price_per_hour
        wanted = spec.environment if spec.environment is not None else default_environment
        if wanted is not None:
            choice = resolve_environment(self.lookup, self.workspace, wanted, "spec.environment")
            self.substituted(choice.substitution)
            self.data["environment"] = choice.ref.dump()
        if spec.code is not None:
            self.data["code"] = self.uri(spec.code, "spec.code")
            digest = code_digest(self.data["code"])
            if digest is not None:
                self.data["code_digest"] = digest
        if spec.volumes:
            names = list(dict.fromkeys(volume.name for volume in spec.volumes))
            self.data["volumes"] = volume_sources(self.lookup, self.workspace, names, owner=self.owner)

    def uri(self, text: str, path: str, *, folder: bool = False, write: bool = False) -> str:
        """``oss://bucket.endpoint/key`` → ``s3://bucket/key``; with ``folder`` it ends with a slash.

        Raises Invalid for what is not an object URI, Forbidden for a bucket that who applies does not reach, and with
        ``write`` for what nobody may write.
        """
        uri = parse_uri(text, path)
        if write:
            check_writable(uri, path)
        check_reach(self.lookup.connection, self.lookup.principal, self.workspace, uri, path=path)
        found = str(uri)
        return f"{found}/" if folder and not found.endswith("/") else found

    def substituted(self, substitution: Substitution | None) -> None:
        """Record a replacement and tell the user of it."""
        if substitution is not None:
            self._substitutions.append(substitution)
            self.notes.append(substitution.note())

    def resolved(self) -> Resolved:
        if self._substitutions:
            self.data["substitutions"] = [substitution.dump() for substitution in self._substitutions]
        return Resolved(self.data, tuple(self.notes))
