"""Archives of code: unpacked so that nothing in them can write elsewhere or fill the disk.

``tarfile``'s own filters are not in every Python 3.11 (Debian 12 has 3.11.2), so the rules are ours.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import tarfile
from pathlib import Path

from modelworks.kernel.errors import Invalid
from modelworks.kernel.quantities import format_bytes

MOST_MEMBERS = 200_000
_SPARE = 256 << 20  # bytes that unpacking leaves free for others
_REMEDY = "it must be a .tar.gz of files and folders, without links or paths that lead out of it"


def unpack(archive: Path, target: Path, name: str) -> None:
    """Unpack a tar archive as the new directory ``target``. Raises Invalid, naming the archive ``name``."""
    target.mkdir()
    try:
        with tarfile.open(archive, "r:*") as tar:
            _unpack(tar, target)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise Invalid(f"{name} cannot be unpacked: {error}", remedy=_REMEDY) from error


def _unpack(tar: tarfile.TarFile, target: Path) -> None:
    """Links are made last: no file is ever written through one."""
    links: list[tuple[str, str]] = []
    room = max(0, shutil.disk_usage(target).free - _SPARE)
    size = 0
    for count, member in enumerate(tar):
        path = _inside(member.name)
        size += member.size
        if count >= MOST_MEMBERS:
            raise ValueError(f"it holds more than {MOST_MEMBERS} files")
        if size > room:
            raise ValueError(f"its content is larger than the {format_bytes(room)} that this node has left")
        if member.isdir():
            (target / path).mkdir(parents=True, exist_ok=True)
        elif member.isreg():
            _write(tar, member, target / path)
        elif member.issym():
            _inside(posixpath.join(posixpath.dirname(path), member.linkname))
            links.append((path, member.linkname))
        else:
            raise ValueError(f"{member.name!r} is neither a file, a folder nor a symbolic link")
    for path, linkname in links:
        link = target / path
        if any(parent.is_symlink() for parent in link.parents if parent != target and target in parent.parents):
            raise ValueError(f"{path!r} lies below a link")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(linkname)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise ValueError(f"{member.name!r} has no content")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a later member of the same name wins
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)
    os.utime(path, (member.mtime, member.mtime))


def _inside(name: str) -> str:
    """``name`` in its normal form. Raises ValueError when it leads out of the archive."""
    path = posixpath.normpath(name)
    if posixpath.isabs(path) or path == ".." or path.startswith("../") or "\0" in path:
        raise ValueError(f"{name!r} leads out of it")
    return path
