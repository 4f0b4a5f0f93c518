"""What a controller knows of the leases that it keeps: until when runs may live on a node that it hears no more of.

A node's runs live ``lease`` seconds from when the challenge was given that was last answered (``Runtime.challenge``).
Here only the time is known when an answer was sent, which is later: what was let live by it has ended ``MARGIN``
seconds after its lease, counted from then, on this machine's clock alone. The margin is for SIGTERM and SIGKILL, for a
shim that looks once a second, and for clocks of different speed. Before that nobody may take a silent node's runs for
ended, and afterwards everybody may.
"""

from __future__ import annotations

import threading
import time

MARGIN = 5.0
"""Seconds between the end of a lease on its node and the moment when its runs count as lost."""
_RENEWALS = 5  # within one lease
_STARTED = 2.0  # what of a lease must at least be left for a run that is to begin


def boottime() -> float:
    """Seconds since this machine started; they count while it sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Tenure:
    """One node's lease, as this controller keeps it. Thread-safe; ``now`` is always ``boottime()``.

    A predecessor of this controller may have answered just before it ended: so ``since``, the beginning, counts as an
    answer.
    """

    def __init__(self, lease: float, since: float) -> None:
        self.lease = lease
        self._lock = threading.Lock()
        self._sent_at = since
        self._heard_at = since
        self._challenge = ""

    @property
    def period(self) -> float:
        """Seconds between two renewals."""
        return self.lease / _RENEWALS

    def sent(self, challenge: str, now: float) -> None:
        """Call before an answer is sent, and never for a challenge that was received after ``now``."""
        with self._lock:
            self._sent_at = max(self._sent_at, now)
            self._challenge = challenge

    def heard(self, asked_at: float) -> None:
        """The node told all it holds, asked at that moment: while it tells, nobody needs to guess."""
        with self._lock:
            self._heard_at = max(self._heard_at, asked_at)

    def challenge(self, now: float) -> str | None:
        """What a run that is to begin comes with; None while the last answer was too long ago."""
        with self._lock:
            fresh = now < self._sent_at + self.lease - _STARTED
            return self._challenge if fresh and self._challenge else None

    def over_at(self) -> float:
        """When all has ended that nothing is heard of."""
        with self._lock:
            return max(self._sent_at, self._heard_at) + self.lease + MARGIN

    def over(self, now: float) -> bool:
        return now >= self.over_at()
