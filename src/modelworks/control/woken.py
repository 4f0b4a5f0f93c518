"""A thread that works in turns: at once when it is woken, and otherwise after the wait that its last turn chose."""

from __future__ import annotations

import logging
import threading

from modelworks.kernel.errors import Unavailable

_log = logging.getLogger(__name__)

_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # after turns that failed


class WokenLoop(threading.Thread):
    """Calls ``turn`` until it is stopped. One that fails is repeated soon, and ever later while it goes on failing."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._woken = threading.Event()
        self._stopping = False

    def turn(self) -> float:
        """Do what there is to do; the seconds until the next turn, if nobody wakes it before.

        Unavailable, while something is away that it needs, is no fault.
        """
        raise NotImplementedError

    def wake(self, _payload: str = "") -> None:
        self._woken.set()

    def stop(self, timeout: float = 5.0) -> None:
        """After the turn that is under way, which is waited for as long as ``timeout``."""
        self._stopping = True
        self._woken.set()
        if self.ident is not None:
            self.join(timeout)

    def run(self) -> None:
        pause = _PAUSE
        while True:
            # Before the turn: whoever wakes it meanwhile may have changed what it has read already.
            self._woken.clear()
            if self._stopping:
                return
            try:
                wait, pause = self.turn(), _PAUSE
            except Exception as error:
                if isinstance(error, Unavailable):
                    _log.warning("%s.waits", self.name, extra={"reason": error.detail, "retry_in": pause})
                else:
                    _log.exception("%s.failed", self.name, extra={"retry_in": pause})
                wait, pause = pause, min(pause * 2, _LONGEST_PAUSE)
            self._woken.wait(wait)
