"""How the C library keeps the memory that bodies lie in."""

from __future__ import annotations

import ctypes

# glibc's numbers of its options.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 32 << 20
_LARGE = 8 << 20


def keep_freed() -> None:
    """What was freed is used again, up to 32 MiB, and blocks of up to 8 MiB are taken from it.

    By default a block of more than 128 KiB may be a mapping of its own, and the end of the heap goes back to the system
    as soon as a little of it is free: each copy of a body then costs a fault and a cleared page for every 4 KiB, which
    takes several times longer than copying does. C libraries other than glibc stay as they are.
    """
    try:
        option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    option(_MMAP_THRESHOLD, _LARGE)
    option(_TRIM_THRESHOLD, _KEPT)
