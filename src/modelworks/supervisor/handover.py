"""Processes that were asked to end, and answer what they had begun, while their successors have their place already.

Only those that listen at the public socket: nobody who connects waits until the last one of them has been answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from modelworks.home import Home
from modelworks.supervisor import policy
from modelworks.supervisor.child import Child
from modelworks.supervisor.policy import Phase
from modelworks.supervisor.standby import StandBy
from modelworks.supervisor.state import Process

Watch = Callable[[int, Callable[[], object]], None]


class Handovers:
    """``watch`` calls back when a descriptor is readable, ``unwatch`` ends that; ``changed``: they are others now."""

    def __init__(
        self,
        home: Home,
        watch: Watch,
        unwatch: Callable[[int], object],
        say: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._home, self._watch, self._unwatch, self._say, self._changed = home, watch, unwatch, say, changed
        self.children: list[Child] = []

    def records(self) -> tuple[Process, ...]:
        return tuple(child.record(Phase.DRAINING) for child in self.children)

    def adopt(self, process: Process) -> None:
        """One that drained for an earlier supervisor; it ends soon, since that does not stand by any more."""
        pidfd = process.identity.pidfd() if process.identity else None
        if process.identity is None or pidfd is None:
            return
        child = Child(process.unit, since=process.since)
        child.running(process.identity, pidfd, time.monotonic(), None)
        self._follow(child)

    def stand_by(self, child: Child) -> bool:
        """Be told when it drains. False when its control socket is not its own yet: then it is not ready either."""
        if child.identity is None:
            return False
        try:
            child.standby = StandBy(f"{self._home.run}/{child.unit.name}.sock", child.identity.pid)
        except OSError:
            return False
        self._watch(child.standby.fileno(), partial(self._told, child))
        return True

    def withdraw(self, child: Child) -> None:
        """It has ended, or gets no successor: should it drain, it does not take longer than it must."""
        if child.standby is not None:
            if not child.draining:
                self._unwatch(child.standby.fileno())
            child.standby.close()
            child.standby = None

    def turn(self, children: Iterable[Child], now: float) -> None:
        """Let the successors of those start that drain now; the first of too many that drain is hurried up."""
        for child in [child for child in children if child.draining]:
            if len(self.children) >= policy.MOST_DRAINING:
                self.withdraw(self.children[0])
                continue
            assert child.pidfd is not None
            self._unwatch(child.pidfd)
            old = child.parted(now)
            self._follow(old)
            self._changed()
            self._say(f"{old.unit.name} (pid {old.identity.pid if old.identity else 0}) drains; another one starts")

    def _told(self, child: Child) -> None:
        drains = child.standby.drains() if child.standby else None
        if drains is None:
            return
        if not drains or child.standby is None:
            self.withdraw(child)
            return
        self._unwatch(child.standby.fileno())
        child.draining = True

    def _follow(self, child: Child) -> None:
        assert child.pidfd is not None
        self.children.append(child)
        self._watch(child.pidfd, partial(self._ended, child))

    def _ended(self, child: Child) -> None:
        assert child.pidfd is not None
        self._unwatch(child.pidfd)
        self.withdraw(child)
        pid = child.identity.pid if child.identity else 0
        child.ended(time.monotonic())
        self.children.remove(child)
        self._changed()
        self._say(f"{child.unit.name} (pid {pid}) has drained: {child.last_exit}")
