"""Process trees on this machine, by run directories alone: what is true survives whoever asked for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from modelworks.home import Home
from modelworks.runtime import container, processes
from modelworks.runtime.exchange import Exchange
from modelworks.runtime.limits import Cgroups, find_cgroups
from modelworks.runtime.rundir import Exited, RunDirectory, RunStore, Started, Stop
from modelworks.runtime.sandbox import base_python

_SHIM = Path(__file__).with_name("shim.py")


class ProcessPhase(StrEnum):
    """``ABSENT``: not started. ``LOST``: started, its shim is gone, and nothing says how it ended."""

    ABSENT = "absent"
    ALIVE = "alive"
    EXITED = "exited"
    LOST = "lost"


@dataclass(frozen=True)
class ProcessState:
    phase: ProcessPhase
    started: Started | None = None
    exited: Exited | None = None


class LocalRuntime:
    """Starts, stops and observes the process tree of a run directory. Holds no state of its own."""

    def __init__(self, cgroups: Cgroups | None = None) -> None:
        self.cgroups = find_cgroups() if cgroups is None else cgroups

    def start(self, directory: RunDirectory) -> subprocess.Popen[bytes]:
        """Start a shim on the directory. End of file on its stdout says that it wrote ``started``, or gave up for the
        reason that it wrote there.

        A second shim of the same directory ends at once without starting anything.
        """
        return subprocess.Popen(
            [str(base_python()), "-I", "-S", str(_SHIM), str(directory.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.environ.get("PATH", "")},
            start_new_session=True,
        )

    def state(self, directory: RunDirectory) -> ProcessState:
        # In this order: a shim that ends between two reads has written ``exited`` before it let go of the lock.
        alive = directory.alive()
        started, exited = directory.started(), directory.exited()
        if exited is not None:
            return ProcessState(ProcessPhase.EXITED, started, exited)
        if started is None:
            return ProcessState(ProcessPhase.ABSENT)
        return ProcessState(ProcessPhase.ALIVE if alive else ProcessPhase.LOST, started)

    def watch(self, directory: RunDirectory) -> int | None:
        """A pidfd of the living shim, readable when it ends; None when there is none."""
        started = directory.started()
        if started is None:
            return None
        try:
            descriptor = os.pidfd_open(started.shim)
        except ProcessLookupError:
            return None
        if directory.alive():  # it holds the lock, so the number is still its own
            return descriptor
        os.close(descriptor)
        return None

    def stop(self, directory: RunDirectory, grace: float, reason: str, message: str = "") -> None:
        """Write the wish and wake the shim; a run not yet started will not start. A shorter grace replaces a longer."""
        now, wish = time.time(), directory.stop()
        if wish is None or now + grace < wish.at + wish.grace:
            first = wish or Stop(grace, reason, now, message)
            length = max(0.0, now + grace - first.at)
            try:
                # Before the signal: who is woken by that finds out why, and how long there is.
                Exchange(directory.exchange).write_notice(first.reason, first.at, first.at + length, first.message)
                directory.write("stop", {**asdict(first), "grace": length})
            finally:
                self.wake(directory)  # on a full disk it still ends, after the shim's own grace
        else:
            self.wake(directory)

    def wake(self, directory: RunDirectory) -> None:
        """SIGTERM to the shim, which then reads the wish."""
        descriptor = self.watch(directory)
        if descriptor is not None:
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            finally:
                os.close(descriptor)

    def died_at(self, directory: RunDirectory) -> float:
        """When a run that nothing tells the end of ended, in Unix seconds: what it is paid for until.

        Now; or, of a run that went down with its machine, its last sign of life before the machine started again.
        """
        now, started = time.time(), directory.started()
        booted = now - time.clock_gettime(time.CLOCK_BOOTTIME)
        if started is None or started.at >= booted:
            return now
        signs = [started.at]
        for path in (directory.metrics, directory.log):
            with contextlib.suppress(FileNotFoundError):  # it never wrote any
                signs.append(path.stat().st_mtime)
        return min(max(signs), booted)

    def kill(self, directory: RunDirectory) -> None:
        """SIGKILL to all that is left of a tree whose shim is gone."""
        for pid in {*self.cgroups.members(directory.key), *processes.with_variable("MW_RUN", directory.key)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_all(home: Home, grace: float = 5.0, report: Callable[[str], None] | None = None) -> int:
    """End every run below ``home`` without an agent, for ``mw down``. Returns how many were alive; waits for them."""
    runtime, store = LocalRuntime(), RunStore(home.agent / "runs")
    living = [d for d in store.all() if d.alive()]
    for directory in living:
        runtime.stop(directory, grace, "Stopped")
    deadline = time.monotonic() + grace + 5.0
    for directory in living:
        _await_end(runtime, directory, deadline)
        if report:
            report(directory.key)
    for directory in store.all():
        if runtime.state(directory).phase == ProcessPhase.LOST:
            runtime.kill(directory)
        if directory.spec().image:
            container.remove(directory.key)
        runtime.cgroups.remove(directory.key)
    return len(living)


def _await_end(runtime: LocalRuntime, directory: RunDirectory, deadline: float) -> None:
    descriptor = runtime.watch(directory)
    if descriptor is None:
        return
    try:
        if not _readable(descriptor, deadline - time.monotonic()):
            # The shim itself hangs: with it goes its tree.
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            _readable(descriptor, 5.0)
    finally:
        os.close(descriptor)


def _readable(descriptor: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout) * 1000))
