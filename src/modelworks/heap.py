"""How the memory is kept that bodies lie in, and how garbage is looked for."""

from __future__ import annotations

import ctypes
import gc

# glibc's numbers of its options.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 32 << 20
_LARGE = 8 << 20
_YOUNG = 10_000  # objects, before the youngest are looked through; Python's own number is 700


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


def keep_loaded() -> None:
    """Call when all is loaded: from now on nobody looks for garbage among what there is.

    Half a million objects of modules and classes take a fifth of a second each time. And a pass that makes ten thousand
    objects, which live as long as it takes, is not interrupted dozens of times for them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
