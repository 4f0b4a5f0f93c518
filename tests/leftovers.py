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
    return [*found, *processes(*uids), *groups(home, *uids)]


def of_workload(home: Home, uid: str) -> list[str]:
    """Processes, groups, sockets and run directories of a resource that is gone."""
    directories = [f"directory {path}" for path in (home.agent / "runs").glob(f"{uid}*")]
    return [*processes(uid), *groups(home, uid), *directories]


def processes(*uids: str) -> list[str]:
    """Living processes of any run of the resources."""
    wanted, found = tuple(f"MW_RUN={uid}/".encode() for uid in uids), []
    for pid in pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if any(entry.startswith(wanted) for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                found.append(f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}")
    return found


def ports(pid: int) -> list[int]:
    """The TCP ports on which a process listens, in whatever network it is."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(link.readlink().name)
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sorted(int(f[1].rpartition(":")[2], 16) for f in lines if f[3] == "0A" and f"socket:[{f[9]}]" in inodes)


def agents(home: Home) -> dict[int, list[int]]:
    """The agents of the home, each with the ports on which it listens."""
    found, needle = {}, os.fsencode(home.root)
    for pid in pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"modelworks.main\0agent\0" in line and needle in line:
                found[pid] = ports(pid)
    return found


def groups(home: Home, *uids: str) -> list[str]:
    """Control groups of the resources' runs that the home still knows of, which have ended."""
    keys = (directory.key for directory in RunStore(home.agent / "runs").all())
    return groups_of(key for key in keys if key.startswith(tuple(f"{uid}/" for uid in uids)))


def groups_of(keys: Iterable[str]) -> list[str]:
    return [f"group of {key}" for key in keys if find_cgroups().group(key) is not None]
