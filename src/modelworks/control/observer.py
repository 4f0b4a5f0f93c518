"""Observers: one thread a node, which waits for changes at its agent and wakes the resources they belong to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from modelworks.control import strays
from modelworks.control.fleet import Fleet, Picture
from modelworks.control.leases import Tenure, boottime
from modelworks.db import nodes
from modelworks.kernel.errors import ModelworksError, Unavailable
from modelworks.kernel.run import NodeObservation, RunObservation
from modelworks.runtime.base import Runtime

_log = logging.getLogger(__name__)

_LONG_POLL = 20.0  # also how often the node says that it lives
_LONG_POLL_LEASED = 5.0  # of one that may be cut off while we wait
_LONGEST_PAUSE = 2.0
_REFRESH = 300.0  # the whole picture anew, against what no one thought of
_STRAYS = 10.0  # sooner, while runs of nobody have still to end


@dataclass(frozen=True)
class Recorder:
    """What the database is told of nodes. One that is away misses a time stamp."""

    engine: Engine

    def seen(self, node: NodeObservation) -> None:
        try:
            with self.engine.begin() as connection:
                nodes.put(connection, node)
        except ModelworksError as error:
            _log.warning("observer.node_not_recorded", extra={"node": node.name, "error": error.detail})

    def away(self, name: str) -> None:
        try:
            with self.engine.begin() as connection:
                nodes.away(connection, name)
        except ModelworksError as error:
            _log.warning("observer.node_not_recorded", extra={"node": name, "error": error.detail})

    def tidy(self, door: Runtime, runs: Sequence[RunObservation]) -> bool:
        """End and forget runs of resources that are no more; True while some have still to end."""
        return strays.sweep(self.engine, door, runs)


class Observer(threading.Thread):
    """Keeps one node's picture. ``wake`` is called with each uid whose runs changed."""

    def __init__(
        self,
        door: Runtime,
        fleet: Fleet,
        wake: Callable[[str], None],
        recorder: Recorder,
        tenure: Tenure | None = None,
    ) -> None:
        super().__init__(name="observer", daemon=True)
        self._door = door
        self._fleet = fleet
        self._wake = wake
        self._recorder = recorder
        self._tenure = tenure
        self._poll = _LONG_POLL if tenure is None else _LONG_POLL_LEASED
        self._refresh = _REFRESH
        self._stopping = threading.Event()
        self._node: NodeObservation | None = None
        self._picture: Picture | None = None

    @property
    def node_name(self) -> str | None:
        """What the node calls itself, once its runs were seen."""
        return self._node.name if self._node is not None and self._picture is not None else None

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
        if self._picture is not None and self._node is not None and self._fleet.get(self._node.name) is self._door:
            self._picture.away()  # nobody looks any more, unless another one has taken over

    def _away(self, pause: float) -> float:
        if self._picture is not None and self._node is not None and self._picture.complete:
            self._picture.away()
            self._recorder.away(self._node.name)
        self._stopping.wait(pause)
        return min(pause * 2, _LONGEST_PAUSE)

    def _look(self) -> int:
        """The node and all its runs; the cursor is from before, so that nothing is missed between."""
        asked_at = boottime()
        node = self._node = self._ask()
        cursor, _ = self._door.changes(0, 0.0)
        picture = self._picture = self._fleet.join(node.name, self._door, self._tenure)
        begun = picture.begin()
        runs = self._door.observe()
        if self._tenure is not None:
            self._tenure.heard(asked_at)
        touched = picture.replace_all(begun, runs)
        self._recorder.seen(node)
        for uid in touched:
            self._wake(uid)
        self._refresh = _STRAYS if self._recorder.tidy(self._door, runs) else _REFRESH
        return cursor

    def _ask(self) -> NodeObservation:
        node = self._door.node()
        return node if self._tenure is None else node.model_copy(update={"lease": self._tenure.lease})

    def _follow(self, cursor: int) -> None:
        """Until the whole picture is due again. Raises Unavailable when the node is away."""
        picture, told = self._picture, time.monotonic()
        assert picture is not None
        until = told + self._refresh
        while not self._stopping.is_set() and time.monotonic() < until:
            asked_at = boottime()
            latest, keys = self._door.changes(cursor, self._poll)
            if latest < cursor or not picture.complete or picture.lost:
                return  # the agent counts anew, since it restarted; or somebody else found the node away meanwhile
            cursor = latest
            for uid in {key.partition("/")[0] for key in keys}:
                begun = picture.begin()
                picture.replace(begun, uid, self._door.observe(f"{uid}/"))
                self._wake(uid)
            if self._tenure is not None:
                self._tenure.heard(asked_at)
            # A node on which something changes all the time says that it lives as often as a quiet one.
            if not keys or time.monotonic() - told >= self._poll:
                self._recorder.seen(self._ask())
                told = time.monotonic()
