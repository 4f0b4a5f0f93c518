"""Leases: a run on a node that may be cut off lives only as long as a controller is heard.

No clocks of two machines are compared. The agent gives a challenge and notes when; who answers it proves to have been
in touch with this node after that moment, however late the answer arrives, so a run's lease reaches ``lease`` seconds
beyond it and never further. A lease that is over stays over: what a cut node missed meanwhile, nobody undoes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from modelworks.kernel.errors import Conflict, Unavailable
from modelworks.kernel.run import RunReason, RunSpec
from modelworks.runtime.rundir import RunDirectory, Stop, write_file

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL of a run whose lease is over."""
EXPIRED = "this node was cut off from the controller, which may have started the run again elsewhere"
FILE = "lease"
_MOST = 64  # challenges kept; two controllers that ask every second are remembered for half a minute
_RETRY_AFTER = 1.0


def boottime() -> float:
    """Seconds since this machine started. It counts while the machine sleeps, unlike the monotonic clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Challenges:
    """The words that were given, and when. Lost with the agent, whose next ones replace them within seconds."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._given: dict[str, float] = {}

    def give(self) -> str:
        """A word that nobody could know before now."""
        word = secrets.token_hex(8)
        self._given[word] = self._clock()
        while len(self._given) > _MOST:
            self._given.pop(next(iter(self._given)))
        return word

    def given(self, word: str) -> float:
        """When it was given. Raises Conflict for a word that is not ours, or too old to be remembered."""
        try:
            return self._given[word]
        except KeyError:
            raise Conflict("this agent did not give that challenge, or long ago", remedy="ask for another") from None

    def admit(self, spec: RunSpec) -> float | None:
        """Until when a run that is to begin now may live; None: for ever.

        Raises Unavailable when the challenge that it came with is answered too late: it was held up on its way.
        """
        if spec.lease is None:
            return None
        until = self._given.get(spec.challenge, 0.0) + spec.lease
        if spec.challenge not in self._given or until <= self._clock():
            raise Unavailable(
                f"run {spec.key} is to begin under a lease that this node does not hold", retry_after=_RETRY_AFTER
            )
        return until


class RunLease:
    """The lease of one run, in the file ``lease`` of its directory, which its shim reads too.

    ``until`` is on this machine's boot clock. A run without the file, or with one of before the machine last started,
    has no lease any more; one that needs none (``seconds`` None) is never over.
    """

    def __init__(self, directory: RunDirectory, seconds: float | None, clock: Callable[[], float] = boottime) -> None:
        self._path = directory.path / FILE
        self._seconds = seconds
        self._clock = clock
        self.until = inf if seconds is None else self._read()

    @property
    def over(self) -> bool:
        return self._clock() >= self.until

    def check(self) -> None:
        """Raises Conflict when the lease is over: what the run made is nobody's any more."""
        if self.over:
            raise Conflict(EXPIRED)

    def stop(self) -> Stop | None:
        """The wish that the end of the lease is."""
        return Stop(GRACE, RunReason.LEASE_EXPIRED, time.time(), EXPIRED) if self.over else None

    def extend(self, given: float) -> None:
        """A challenge of that moment was answered. Blocks for a moment on the disk; raises OSError."""
        until = given + (self._seconds or 0.0)
        if not self.over and until > self.until:
            # Not synced: after a crash of the machine no lease counts, and nothing that it let live is left.
            temporary = self._path.with_suffix(".next")
            temporary.write_bytes(content(until))
            os.rename(temporary, self._path)
            self.until = until

    def _read(self) -> float:
        with contextlib.suppress(FileNotFoundError):
            document: dict[str, Any] = json.loads(self._path.read_bytes())
            if document["boot"] == boot():
                return float(document["until"])
        return 0.0


def content(until: float) -> bytes:
    """The file of a lease."""
    return json.dumps({"version": 1, "boot": boot(), "until": until}).encode()


@cache
def boot() -> str:
    """Names the time since this machine last started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write(folder: Path, until: float) -> None:
    """The first lease of a run whose directory is in the making."""
    write_file(folder / FILE, content(until))
