"""What ``/proc`` knows: who a process is beyond its number, its memory, and who listens on a port."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_TCP_LISTEN = "0A"
# A process may end between two looks at it; then the file is gone or its read fails.
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Identity:
    """A process that no other can be mistaken for on this boot: its number and the clock tick at which it began."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this number now; None when there is none or it is a zombie."""
        fields = _stat(pid)
        if fields is None or fields[0] in ("Z", "X"):
            return None
        return cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return Identity.of(self.pid) == self

    def pidfd(self) -> int | None:
        """A descriptor that becomes readable when exactly this process ends; None when it already has."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():  # looked at after the open: the descriptor is of this process and of no later one
            return fd
        os.close(fd)
        return None

    def send(self, number: signal.Signals) -> bool:
        """Signal exactly this process; False when it is gone."""
        fd = self.pidfd()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    def uptime(self) -> float | None:
        """Seconds since it began; None when it is gone."""
        if not self.alive():
            return None
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / _TICKS)


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/<pid>/stat`` from the state on: the name before them may hold any character."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except _GONE:
        return None
    return text.rpartition(")")[2].split()


def boot_id() -> str:
    """Another after every boot: process numbers recorded under another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(root: int) -> list[int]:
    """``root`` and every process below it."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, ())
    return found


def memory(pid: int) -> int | None:
    """Proportional set size in bytes; None when it is gone or may not be looked at."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (*_GONE, PermissionError):
        return None
    return None


def tree_memory(root: int) -> int:
    """Proportional set size of a process and all below it, in bytes."""
    return sum(memory(pid) or 0 for pid in descendants(root))


def listener(port: int) -> str | None:
    """``name (pid 123)`` of the process that listens on a TCP port; None when there is none or it may not be seen."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for pid in pids():
        # Another user's process, or one that has just ended.
        with contextlib.suppress(PermissionError, *_GONE):
            for fd in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(*_GONE):  # closed meanwhile
                    if os.readlink(fd.path) in inodes:
                        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table, encoding="ascii") as lines:  # no IPv6
            for line in lines:
                fields = line.split()
                if fields[3] == _TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes


def mount_of(path: Path) -> str:
    """The mount point that holds ``path``."""
    best = "/"
    resolved = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        for line in lines:
            point = line.split()[4].encode("ascii", "backslashreplace").decode("unicode_escape")
            inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best = point
    return best
