"""Small files of the kernel (``/proc``, cgroups), read by the thousand: without file objects, which take longer."""

from __future__ import annotations

import os

_SMALL = 16384  # bytes; cgroup and process files of interest are shorter, and come whole from one read


def read(path: str | os.PathLike[str]) -> bytes:
    """The file, up to 16 KiB of it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _SMALL)
    finally:
        os.close(descriptor)
