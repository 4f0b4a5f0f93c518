"""Starting and stopping the real engines for tests: what the supervisor does, without restarts."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelworks.embedded.launch import Launch
from modelworks.home import Home

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@contextmanager
def temporary_home() -> Iterator[Home]:
    """A fresh ``MW_HOME``: short (socket paths are limited) and, under root, open to the engines' own accounts."""
    directory = Path(tempfile.mkdtemp(prefix="mw-"))
    directory.chmod(0o711)
    home = Home(directory)
    try:
        yield home
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(home.run, ignore_errors=True)


def start(launch: Launch, log: Path, *, extra: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Start an engine that ends with this process, however this one ends."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launch.argv, *extra],
            env=dict(launch.env),
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=None if launch.user is None else launch.user.uid,
            group=None if launch.user is None else launch.user.gid,
            extra_groups=None if launch.user is None else [],
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )


def wait_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, timeout: float = 60) -> None:
    """Poll ``ready``; fails with the engine's own log when the engine ends or time is up."""
    deadline = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(
                f"engine not ready (exit {process.poll()}):\n{log.read_text(errors='replace')[-4000:]}"
            )
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes], launch: Launch) -> int:
    """The graceful stop; a process that ignores it is killed and fails the test."""
    if process.poll() is None:
        process.send_signal(launch.stop_signal)
    try:
        return process.wait(launch.stop_timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def kill(process: subprocess.Popen[bytes]) -> None:
    """``kill -9``, and wait for the end."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def running(
    launch: Launch, ready: Callable[[], bool], log: Path, *, extra: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A started, ready engine, stopped at the end."""
    process = start(launch, log, extra=extra)
    try:
        wait_ready(process, ready, log)
        yield process
    finally:
        stop(process, launch)
        for path in launch.leaves:
            path.unlink(missing_ok=True)
