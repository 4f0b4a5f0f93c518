"""Names of buckets and places of volumes checked, at apply."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from sqlalchemy import text

from modelworks.home import Home
from modelworks.kernel.errors import FieldError, Forbidden, Invalid
from modelworks.kernel.resource import Metadata
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.storage import queries
from modelworks.products.storage.spec import BucketSpec, VolumeSpec

_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}")
# Two workspaces that make the same bucket at once: the second waits, and then finds it taken.
_LOCK_NAME = text("SELECT pg_advisory_xact_lock(hashtextextended('bucket/' || :name, 0))")


def resolve_bucket(metadata: Metadata, spec: BucketSpec, lookup: Lookup) -> Resolved:
    """Raises Invalid at ``metadata.name`` for what cannot be a bucket's name, or is another workspace's."""
    name, workspace = metadata.name, metadata.workspace
    if len(name) < 3 or _ADDRESS.fullmatch(name) or ".-" in name or "-." in name or name.startswith("xn--"):
        raise _wrong_name(f"not a bucket's name: {name!r}; use 3-63 letters, digits and '-', and no IP address")
    if name.startswith("mw-") and name != f"mw-{workspace}":
        raise _wrong_name(f"bucket names that begin with 'mw-' are the workspaces' own; {name!r} is not {workspace}'s")
    lookup.connection.execute(_LOCK_NAME, {"name": name})
    owner = queries.bucket_workspace(lookup.connection, name)
    if owner not in (None, workspace):
        raise _wrong_name(f"the bucket {name} belongs to another workspace; choose another name")
    return Resolved({"uri": f"s3://{name}/"})


def resolve_volume(metadata: Metadata, spec: VolumeSpec, lookup: Lookup) -> Resolved:
    """Raises Invalid at ``spec.path`` for a directory that holds, or is in, the platform's own.

    A directory of the machine is for administrators to give: Forbidden for keys that are bound to a workspace.
    """
    if spec.path is None:
        return Resolved()
    if not lookup.principal.administrator:
        said = (
            f"the key {lookup.principal.name} is bound to a workspace: it may not make a directory of the node a volume"
        )
        raise Forbidden(
            said, remedy="leave `path` out, or ask an administrator", fields=(FieldError("spec.path", said),)
        )
    path = PurePosixPath(os.path.realpath(spec.path))
    home = Home(Path(lookup.settings.home))
    for place in (home.root, home.run):
        own = PurePosixPath(os.path.realpath(place))
        if path.is_relative_to(own) or own.is_relative_to(path):
            said = f"{spec.path} is where the platform keeps its own state; a volume may not show that to workloads"
            raise Invalid(said, fields=(FieldError("spec.path", said),))
    # Through a link, the rules of the spec hold for where it leads.
    VolumeSpec.parse({"path": str(path)}, at="spec")
    missing = "" if os.path.isdir(path) else f"{spec.path} is no directory on this machine; workloads wait until it is"
    return Resolved({"path": str(path)}, (missing,) if missing else ())


def _wrong_name(said: str) -> Invalid:
    return Invalid(said, fields=(FieldError("metadata.name", said),))
