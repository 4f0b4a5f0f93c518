"""What a platform, or one of its workloads, has left on the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from modelworks.home import Home
from modelworks.runtime.limits import find_cgroups
from modelworks.runtime.rundir import RunStore
from modelworks.supervisor.procfs import pids


def of_platform(home: Home) -> list[str]:
    """Processes that name the home, or that its runs started; mounts, sockets and groups."""
    needle, found = os.fsencode(home.root), []
    for pid in pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if needle in line and pid != os.getpid():
                found.append(f"process {pid}: {line!r}")
    found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if str(home.root) in line]
    found += [f"socket {path}" for root in (home.root, home.run) for path in root.rglob("*") if path.is_socket()]
    uids = {path.name for path in (home.agent / "runs").glob("*") if not path.name.startswith(".")}
    return found + [one for uid in sorted(uids) for one in (*processes(uid), *groups(home, uid))]


def of_workload(home: Home, uid: str) -> list[str]:
    """Processes, groups, sockets and run directories of a resource that is gone."""
    directories = [f"directory {path}" for path in (home.agent / "runs").glob(f"{uid}*")]
    return [*processes(uid), *groups(home, uid), *directories]


def processes(uid: str) -> list[str]:
    """Living processes of any run of the resource."""
    wanted, found = f"MW_RUN={uid}/".encode(), []
    for pid in pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if any(entry.startswith(wanted) for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                found.append(f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}")
    return found


def groups(home: Home, uid: str) -> list[str]:
    """Control groups of the runs that the home still knows of, which have ended."""
    keys = (directory.key for directory in RunStore(home.agent / "runs").all())
    return groups_of(key for key in keys if key.startswith(f"{uid}/"))


def groups_of(keys: Iterable[str]) -> list[str]:
    return [f"group of {key}" for key in keys if find_cgroups().group(key) is not None]
