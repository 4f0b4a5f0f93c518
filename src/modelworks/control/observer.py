"""Observers: one thread a node, which waits for changes at its agent and wakes the resources they belong to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine

from modelworks.control.fleet import Fleet, Picture
from modelworks.db import nodes
from modelworks.kernel.errors import ModelworksError, Unavailable
from modelworks.kernel.run import NodeObservation
from modelworks.runtime.base import Runtime

_log = logging.getLogger(__name__)

_LONG_POLL = 20.0  # also how often the node says that it lives
_LONGEST_PAUSE = 2.0
_REFRESH = 300.0  # the whole picture anew, against what no one thought of


class Observer(threading.Thread):
    """Keeps one node's picture. ``wake`` is called with each uid whose runs changed; ``seen`` with the node itself."""

    def __init__(
        self,
        door: Runtime,
        fleet: Fleet,
        wake: Callable[[str], None],
        seen: Callable[[NodeObservation], None],
    ) -> None:
        super().__init__(name="observer", daemon=True)
        self._door = door
        self._fleet = fleet
        self._wake = wake
        self._seen = seen
        self._stopping = threading.Event()
        self._picture: Picture | None = None

    def stop(self) -> None:
        """Takes effect after the wait that is under way; the thread is a daemon."""
        self._stopping.set()

    def run(self) -> None:
        pause = 0.05
        while not self._stopping.is_set():
            try:
                cursor = self._look()
                pause = 0.05
                self._follow(cursor)
            except Unavailable as error:
                if self._picture is not None and self._picture.complete:
                    _log.warning("observer.node_away", extra={"error": error.detail})
                pause = self._away(pause)
            except Exception:
                # Whatever it was, the picture can no longer be trusted; the next look starts over.
                _log.exception("observer.failed")
                pause = self._away(pause)

    def _away(self, pause: float) -> float:
        if self._picture is not None:
            self._picture.complete = False
        self._stopping.wait(pause)
        return min(pause * 2, _LONGEST_PAUSE)

    def _look(self) -> int:
        """The node and all its runs; the cursor is from before, so that nothing is missed between."""
        node = self._door.node()
        cursor, _ = self._door.changes(0, 0.0)
        picture = self._picture = self._fleet.join(node.name, self._door)
        begun = picture.begin()
        touched = picture.replace_all(begun, self._door.observe())
        self._seen(node)
        for uid in touched:
            self._wake(uid)
        return cursor

    def _follow(self, cursor: int) -> None:
        """Until the whole picture is due again. Raises Unavailable when the node is away."""
        picture, told = self._picture, time.monotonic()
        assert picture is not None
        until = told + _REFRESH
        while not self._stopping.is_set() and time.monotonic() < until:
            latest, keys = self._door.changes(cursor, _LONG_POLL)
            if latest < cursor:
                return  # the agent counts anew: it restarted
            cursor = latest
            for uid in {key.partition("/")[0] for key in keys}:
                begun = picture.begin()
                picture.replace(begun, uid, self._door.observe(f"{uid}/"))
                self._wake(uid)
            # A node on which something changes all the time says that it lives as often as a quiet one.
            if not keys or time.monotonic() - told >= _LONG_POLL:
                self._seen(self._door.node())
                told = time.monotonic()


def recorder(engine: Engine) -> Callable[[NodeObservation], None]:
    """What an observer calls to write the row of ``nodes``; a database that is away misses one time stamp."""

    def record(node: NodeObservation) -> None:
        try:
            with engine.begin() as connection:
                nodes.put(connection, node)
        except ModelworksError as error:
            _log.warning("observer.node_not_recorded", extra={"node": node.name, "error": error.detail})

    return record
