"""The threads that compute: a few at first, and more while all of them are busy."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

_AT_FIRST = 8


class Workers:
    """At most ``most`` daemon threads of ``work``. A replica that may have hundreds seldom needs them."""

    def __init__(self, work: Callable[[], None], most: int) -> None:
        self._work = work
        self._most = most
        self._threads: list[threading.Thread] = []
        for _ in range(min(most, _AT_FIRST)):
            self._begin()

    def grow(self, busy: int, waiting: int) -> None:
        """One more thread, where so many are ``busy`` that some of those ``waiting`` would find none."""
        if len(self._threads) >= self._most or len(self._threads) - busy >= waiting:
            return
        try:
            self._begin()
        except RuntimeError as error:  # the system has no more: those that are there go on
            self._most = len(self._threads)
            print(f"no more than {self._most} threads: {error}", file=sys.stderr, flush=True)  # noqa: T201

    def join(self, patience: float) -> bool:
        """False when one still works after ``patience`` seconds."""
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    def _begin(self) -> None:
        thread = threading.Thread(target=self._work, name=f"predict-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)
