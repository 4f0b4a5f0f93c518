"""What a user may write of a bucket and of a volume. See docs/architecture.md, "Manifests"."""

from __future__ import annotations

import posixpath
from typing import Annotated

from pydantic import AfterValidator, Field

from modelworks.kernel.quantities import Bytes
from modelworks.kernel.spec import Spec

# Directories of the system: who may make volumes may not hand them to workloads.
_RESERVED = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr")


def _check_path(path: str) -> str:
    if not path.startswith("/") or posixpath.normpath(path) != path.rstrip("/"):
        raise ValueError(f"not an absolute path: {path!r}; write it as /srv/shared, without '..' or '//'")
    if any(path.rstrip("/") == place or path.startswith(f"{place}/") for place in _RESERVED):
        raise ValueError(f"{path} belongs to the system; a volume may be below /srv, /mnt, /data or /home")
    if any(ord(c) < 32 for c in path):
        raise ValueError("a path holds no control characters")
    return path.rstrip("/")


VolumePath = Annotated[str, AfterValidator(_check_path), Field(max_length=1024)]


class BucketSpec(Spec):
    """A bucket of the object store, called as the resource is."""


class VolumeSpec(Spec):
    """A persistent directory: the platform's own, or ``path``, an existing one such as on NFS.

    ``shared`` volumes attach to many workloads at once, others to one. ``size`` is what is paid for.
    """

    size: Bytes = Field(default=10 * 1024**3, ge=1024**2, le=1 << 60)
    shared: bool = False
    path: VolumePath | None = None
