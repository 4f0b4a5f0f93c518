"""The reconcile loop: lease what is due or was notified, observe, decide, act, write the status, end the lease.

One dispatcher thread leases rows in batches, observes and decides: that asks only the database and the memory. What is
quiet, which is nearly everything, gives its leases back in one statement. What has actions goes to a few workers, since
those wait for nodes and the object store. A resource that fails backs off alone; a database or node that is away
changes nothing and is tried again soon.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from sqlalchemy import Engine

from modelworks.control.act import LEASE_SECONDS, Actor, is_quiet
from modelworks.control.fleet import Fleet
from modelworks.control.traffic import TrafficStore
from modelworks.control.unreadable import unreadable
from modelworks.control.usage import UsageReader
from modelworks.control.world import FleetWorld
from modelworks.db import claims, events, resources
from modelworks.db.engine import single
from modelworks.db.resources import Lease, LeaseLost, Settled
from modelworks.kernel.decision import Decision, Remove
from modelworks.kernel.errors import Invalid, ModelworksError, Unavailable
from modelworks.kernel.events import Level
from modelworks.kernel.resource import Resource
from modelworks.products.kind import Kind
from modelworks.settings import Settings

_log = logging.getLogger(__name__)

_BATCH = 400
_POLL = 5.0
_LONGEST_BACK_OFF = 300.0
_RETRY_UNAVAILABLE = 1.0
_LONGEST_PAUSE = 5.0


def _utcnow() -> datetime:
    return datetime.now(UTC)


class Reconciler:
    """Runs passes over resources. ``owner`` names this controller: one that comes back ends its old leases."""

    def __init__(
        self,
        engine: Engine,
        kinds: Mapping[str, Kind],
        settings: Settings,
        fleet: Fleet,
        actor: Actor,
        *,
        owner: str | None = None,
        traffic: TrafficStore | None = None,
        usage: UsageReader | None = None,
        clock: Callable[[], datetime] = _utcnow,
        workers: int = 4,
        poll: float = _POLL,
    ) -> None:
        self._engine = engine
        self._kinds = kinds
        self._settings = settings
        self._fleet = fleet
        self._actor = actor
        self._traffic = traffic
        self._usage = usage
        self._owner = owner or secrets.token_hex(6)
        self._clock = clock
        self._poll = poll
        self._most_under_way = workers * 4
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="act")
        self._thread = threading.Thread(target=self._loop, name="reconcile", daemon=True)
        self._changed = threading.Condition()
        # Below: guarded by the condition.
        self._woken: set[str] = set()
        self._settled: list[Settled] = []
        self._under_way = 0
        self._due_at = 0.0  # on the monotonic clock: when the database is asked for due rows again
        self._stopping = False
        self._failures: dict[str, int] = {}

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 8.0) -> None:
        """Let the actions under way finish, within ``timeout``; what does not is repaired by the next controller."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is None:
            self._end()
        else:
            self._thread.join(timeout)

    def wake(self, uid: str) -> None:
        """Look at a resource now; an empty uid means: something may have been missed, look at all that is due."""
        with self._changed:
            if uid:
                self._woken.add(uid)
            else:
                self._due_at = 0.0
            self._changed.notify_all()

    def _loop(self) -> None:
        pause, recovered = 0.1, False
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, self._patience())
                if self._stopping:
                    break
            try:
                if not recovered:
                    self._recover()
                    recovered = True
                self.round()
                pause = 0.1
            except Exception as error:
                if isinstance(error, Unavailable):
                    _log.warning("reconcile.database_away", extra={"error": error.detail, "retry_in": pause})
                else:
                    _log.exception("reconcile.round_failed", extra={"retry_in": pause})
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        self._end()

    def _has_work(self) -> bool:
        if self._stopping or self._settled:
            return True
        room = self._under_way < self._most_under_way
        return room and (bool(self._woken) or time.monotonic() >= self._due_at)

    def _patience(self) -> float:
        return max(min(self._due_at - time.monotonic(), self._poll), 0.0) or self._poll

    def _recover(self) -> None:
        with self._engine.begin() as connection:
            found = resources.disown(connection, self._owner)
        if found:
            _log.info("reconcile.recovered", extra={"leases": found})

    def _end(self) -> None:
        """Wait for the workers and give back what they held."""
        self._workers.shutdown(wait=True)
        try:
            self._settle()
        except Unavailable as error:
            _log.warning("reconcile.leases_left", extra={"error": error.detail})

    def round(self) -> int:
        """One batch, up to the workers; returns how many resources were looked at."""
        self._settle()
        leases = self._lease()
        if not leases:
            return 0
        decided = self._decide_all(leases)
        for lease, decision in decided:
            if is_quiet(lease.resource, decision):
                self._failures.pop(lease.resource.uid, None)
                self._give_back(lease, decision.wake_in)
            else:
                with self._changed:
                    self._under_way += 1
                self._workers.submit(self._act, lease, decision)
        self._settle()
        return len(leases)

    def _lease(self) -> list[Lease]:
        with self._changed:
            room = min(_BATCH, self._most_under_way - self._under_way)
            if room <= 0:
                return []
            uids = set(sorted(self._woken)[:_BATCH])
            self._woken -= uids
            due = time.monotonic() >= self._due_at
        leases: list[Lease] = []
        try:
            if uids:
                with single(self._engine) as connection:
                    leases = resources.lease_these(connection, self._owner, uids, LEASE_SECONDS)
            # Somebody works on these right now: they are due again when that ends, or already if it just did.
            busy = uids - {lease.resource.uid for lease in leases}
            if due or busy:
                with self._engine.begin() as connection:
                    if busy:
                        resources.touch(connection, busy)
                    more = resources.lease_due(connection, self._owner, _BATCH, LEASE_SECONDS)
                    self._sleep_until(0.0 if len(more) == _BATCH else resources.next_due(connection))
                leases += more
        except Unavailable:
            with self._changed:
                self._woken |= uids
                self._settled += [Settled(lease, 0.0) for lease in leases]
            raise
        return leases

    def _decide_all(self, leases: Iterable[Lease]) -> list[tuple[Lease, Decision]]:
        """Observe and decide; who cannot be decided about now gives its lease back."""
        decided: list[tuple[Lease, Decision]] = []
        left = list(leases)
        try:
            with single(self._engine) as connection:
                wanted = claims.of(connection, [lease.resource.uid for lease in left])
                batch = [lease.resource for lease in left]
                world = FleetWorld(connection, self._settings, self._fleet, wanted, batch, self._traffic, self._usage)
                while left:
                    lease = left[0]
                    try:
                        decided.append((lease, self._decide(lease.resource, world)))
                    except Unavailable as error:
                        self._postpone(lease, error)
                    except Exception as error:
                        self._failed(lease, error)
                    left.pop(0)
        except Unavailable as error:
            for lease in left:
                self._postpone(lease, error)
        return decided

    def _decide(self, resource: Resource, world: FleetWorld) -> Decision:
        kind = self._kinds.get(resource.ref.kind)
        if kind is None:
            # Written by a newer version, or by a product that is not installed: not ours to touch.
            return Decision(resource.status)
        if kind.decide is None:
            decision = Decision({"phase": "Ready", "message": ""}, (Remove(),) if resource.deleting else ())
        else:
            try:
                observed = kind.observe(resource, world) if kind.observe is not None else None
                decision = kind.decide(resource, observed, self._clock())
            except Invalid as error:
                decision = unreadable(resource, error)
        status = {**decision.status, "observed_generation": resource.generation}
        return Decision(status, decision.actions, decision.wake_in)

    def _act(self, lease: Lease, decision: Decision) -> None:
        """In a worker: carry out one decision; whatever happens, the lease ends."""
        try:
            due_in = self._actor.carry_out(lease, decision)
            self._failures.pop(lease.resource.uid, None)
            self._next_due(lease.resource.uid, due_in)
        except LeaseLost:
            _log.info("reconcile.lease_lost", extra={"resource": str(lease.resource.ref)})
        except Unavailable as error:
            self._postpone(lease, error)
        except Exception as error:
            self._failed(lease, error)
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _postpone(self, lease: Lease, error: Unavailable) -> None:
        """Nothing is known, so nothing changes; another pass comes soon."""
        _log.info("reconcile.postponed", extra={"resource": str(lease.resource.ref), "reason": error.detail})
        self._give_back(lease, max(error.retry_after or 0.0, _RETRY_UNAVAILABLE))

    def _failed(self, lease: Lease, error: Exception) -> None:
        """Back off, and say once what is wrong: a fault in one resource or its product's code is not the others'."""
        resource = lease.resource
        count = self._failures[resource.uid] = self._failures.get(resource.uid, 0) + 1
        delay = min(2.0 ** min(count - 1, 10), _LONGEST_BACK_OFF)
        detail = error.detail if isinstance(error, ModelworksError) else f"{type(error).__name__}: {error}"
        _log.error(
            "reconcile.failed",
            extra={"resource": str(resource.ref), "error": detail, "retry_in": delay},
            exc_info=error,
        )
        try:
            with self._engine.begin() as connection:
                message = " ".join(detail.split())
                events.append_once(connection, resource.ref, resource.uid, "ReconcileFailed", message, Level.WARNING)
        except Unavailable as away:
            _log.warning("reconcile.event_lost", extra={"resource": str(resource.ref), "error": away.detail})
        self._give_back(lease, delay)

    def _give_back(self, lease: Lease, wake_in: float | None) -> None:
        with self._changed:
            self._settled.append(Settled(lease, wake_in))
            self._changed.notify_all()

    def _settle(self) -> None:
        """End the leases that are given back; when the database is away they are kept for the next round."""
        with self._changed:
            settled, self._settled = self._settled, []
        if not settled:
            return
        try:
            with single(self._engine) as connection:
                due = resources.settle(connection, settled)
        except Unavailable:
            with self._changed:
                self._settled = settled + self._settled
            raise
        for uid, due_in in due.items():
            self._next_due(uid, due_in)

    def _next_due(self, uid: str, due_in: float | None) -> None:
        """A row sleeps; when somebody asked for it during its pass, it is due at once."""
        if due_in is None:
            return
        with self._changed:
            if due_in <= 0:
                self._woken.add(uid)
            else:
                self._due_at = min(self._due_at, time.monotonic() + due_in)
            self._changed.notify_all()

    def _sleep_until(self, due_in: float | None) -> None:
        with self._changed:
            wait = self._poll if due_in is None else min(max(due_in, 0.0), self._poll)
            self._due_at = time.monotonic() + wait
