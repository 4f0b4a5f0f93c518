"""Nodes that come and go: who watches which, who keeps its lease, and when silence is the end of what it ran."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Engine

from modelworks.control.doors import Door, NodeSource
from modelworks.control.fleet import MOVED, Fleet, Member
from modelworks.control.leases import Tenure, boottime
from modelworks.control.observer import Observer, Recorder
from modelworks.db import nodes, reservations
from modelworks.kernel.errors import ModelworksError, Unavailable

_log = logging.getLogger(__name__)

_PERIOD = 1.0
_SILENT = 2  # renewals that fail one after the other, until the node counts as away
_KEPT = 60.0  # seconds for which a lost node that is no more is still told of


class Keeper(threading.Thread):
    """Renews the lease of one node, for as long as there is a door to it. ``away`` is called when it stays silent."""

    def __init__(self, door: Door, tenure: Tenure, away: Callable[[], None]) -> None:
        super().__init__(name="keeper", daemon=True)
        self._door = door
        self._tenure = tenure
        self._away = away
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        failed = 0
        while not self._stopping.wait(self._tenure.period):
            try:
                challenge = self._door.runtime.challenge()
                if self._stopping.is_set():
                    return  # who keeps the lease now does not know of this answer
                self._tenure.sent(challenge, boottime())
                self._door.runtime.renew(challenge)
                failed = 0
            except Exception as error:
                failed += 1
                if failed == _SILENT:
                    detail = error.detail if isinstance(error, ModelworksError) else repr(error)
                    _log.warning("keeper.silent", extra={"node": self._door.name, "error": detail})
                    self._away()


@dataclass
class _Watched:
    """A door with those who stand at it; the keeper comes when the node has told its name."""

    door: Door
    observer: Observer
    tenure: Tenure | None
    keeper: Keeper | None = None

    @property
    def name(self) -> str:
        return self.observer.node_name or self.door.name

    def stop(self) -> None:
        self.observer.stop()
        if self.keeper is not None:
            self.keeper.stop()


class Nodes(threading.Thread):
    """Opens and closes doors as the sources say, and tells when the lease of a silent node is over.

    ``wake`` is called with each uid that this concerns. Without leases this is one observer, which stays. Leases are
    kept by one process alone, which holds the file ``lock``: what another one renews, this one knows nothing of.
    """

    def __init__(
        self,
        sources: Sequence[NodeSource],
        fleet: Fleet,
        engine: Engine,
        wake: Callable[[str], None],
        lock: Path,
    ) -> None:
        super().__init__(name="nodes", daemon=True)
        self._sources = sources
        self._fleet = fleet
        self._engine = engine
        self._recorder = Recorder(engine)
        self._lock = lock
        self._sole = False
        self._wake = wake
        self._stopping = threading.Event()
        self._watched: dict[str, _Watched] = {}
        self._lost_at: dict[str, float] = {}  # node → when, on the boot clock
        self._remembered = False
        self._away_for = ""  # what was told last

    def stop(self, timeout: float = 5.0) -> None:
        self._stopping.set()
        if self.ident is not None:
            self.join(timeout)
        for watched in self._watched.values():
            watched.stop()

    def run(self) -> None:
        while True:
            try:
                self.look()
            except Unavailable as error:
                _log.info("nodes.waits", extra={"reason": error.detail})
            except Exception:
                _log.exception("nodes.failed")
            if self._stopping.wait(_PERIOD):
                return

    def look(self) -> None:
        """One round. Raises Unavailable while the database is away."""
        present = self._open()
        if not self._sole:
            return
        # Local nodes are watched while the database is away; what is lost is told of when it is back.
        self._remember()
        now = boottime()
        for name, member in self._fleet.members().items():
            if member.tenure is None:
                continue
            if not member.picture.lost:
                self._lost_at.pop(name, None)
                if member.tenure.over(now):
                    self._lose(name, member, now)
            elif present is not None and name not in present and now > self._lost_at.get(name, now) + _KEPT:
                self._forget(name)

    def _open(self) -> set[str] | None:
        """Stand at new doors, leave those that are no more; the names of all, None while a source does not say."""
        known: dict[str, Door] = {}
        whole = self._alone()
        for source in self._sources:
            try:
                known |= {door.name: door for door in source.doors() if self._sole or door.lease is None}
            except Unavailable as error:
                whole = False
                if error.detail != self._away_for:
                    _log.info("nodes.source_away", extra={"reason": error.detail})
                    self._away_for = error.detail
        for name, watched in list(self._watched.items()):
            if (door := known.get(name)) is not watched.door and (whole or door is not None):
                watched.stop()
                del self._watched[name]
        for name, door in known.items():
            if name not in self._watched:
                self._watched[name] = self._watch(door)
        for watched in self._watched.values():
            # Only a node whose answer was heard is renewed: until then an earlier lease of its may run out.
            if watched.tenure and watched.keeper is None and (node := watched.observer.node_name) is not None:
                watched.keeper = Keeper(watched.door, watched.tenure, partial(self._silent, node))
                watched.keeper.start()
        return {watched.name for watched in self._watched.values()} if whole else None

    def _alone(self) -> bool:
        """Whether no other process keeps leases; once so, for as long as this one lives."""
        if not self._sole:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sole = True  # the descriptor stays open
            except BlockingIOError:
                os.close(descriptor)
        return self._sole

    def _watch(self, door: Door) -> _Watched:
        tenure = Tenure(door.lease, boottime()) if door.lease is not None else None
        observer = Observer(door.runtime, self._fleet, self._wake, self._recorder, tenure)
        observer.start()
        return _Watched(door, observer, tenure)

    def _remember(self) -> None:
        """Once: the nodes that an earlier controller renewed, maybe until it ended; and what a platform that has moved
        from its own machine to a cluster, or back, has left behind.
        """
        if self._remembered:
            return
        with self._engine.begin() as connection:
            for node in nodes.everything(connection):
                name, lease = node.observation.name, node.observation.lease
                if lease is not None:
                    self._fleet.expect(name, Tenure(lease, boottime()))
                elif not self._fleet.local:
                    # Nobody asks its agent any more, and whoever moved the platform has ended what ran there.
                    nodes.away(connection, name)
                    self._fleet.expect(name, Tenure(0.0, boottime()), MOVED)
            if self._fleet.local:
                reservations.abandon(connection)
        self._remembered = True

    def _silent(self, name: str) -> None:
        self._fleet.picture(name).away()
        self._recorder.away(name)

    def _lose(self, name: str, member: Member, now: float) -> None:
        """No new work goes there before anybody knows that the old is lost."""
        with self._engine.begin() as connection:
            nodes.away(connection, name)
            owners = nodes.owners(connection, name)
        _log.warning("nodes.lost", extra={"node": name})
        touched = member.picture.lose(time.time(), member.why)
        self._lost_at[name] = now
        for uid in touched | set(owners):
            self._wake(uid)

    def _forget(self, name: str) -> None:
        """A node that is no more, once nothing has room there."""
        with self._engine.begin() as connection:
            if nodes.owners(connection, name):
                return
            nodes.remove(connection, name)
        self._fleet.leave(name)
        self._lost_at.pop(name, None)
