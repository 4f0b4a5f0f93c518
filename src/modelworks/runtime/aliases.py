"""A read-only folder that is to be seen in itself, under a name of its own: ``/mnt/model`` and ``/mnt/model/Qwen``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from modelworks.runtime.sandbox import Mount


def laid_out(mounts: Sequence[Mount], folder: Path) -> list[Mount]:
    """The mounts, with another directory at the outer place of what is mounted in itself.

    Nothing can be mounted where there is no directory, and none can be made in what is shared with other runs. So the
    outer place gets a directory of its own below ``folder``: what it shows of directories is mounted, files are links.
    """
    found: list[Mount] = []
    for mount in mounts:
        inner = [one for one in mounts if one.source == mount.source and _is_in(one.target, mount.target)]
        found += _outer(mount, inner, folder / f"alias{len(found)}") if inner and not mount.writable else [mount]
    return found


def _is_in(inner: str, outer: str) -> bool:
    return str(PurePosixPath(inner).parent) == outer


def _outer(mount: Mount, inner: Sequence[Mount], own: Path) -> Iterator[Mount]:
    names = [PurePosixPath(one.target).name for one in inner]
    own.mkdir(exist_ok=True)
    yield Mount(own, mount.target)
    for name in names:
        (own / name).mkdir(exist_ok=True)
    with os.scandir(mount.source) as entries:
        for entry in entries:
            here = own / entry.name
            if entry.is_dir(follow_symlinks=False):
                here.mkdir(exist_ok=True)
                yield Mount(Path(entry.path), f"{mount.target}/{entry.name}")
            elif not here.is_symlink():
                here.symlink_to(f"{names[0]}/{entry.name}")
