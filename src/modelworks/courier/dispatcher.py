"""Claims tasks as replicas have room, sends them there, and says what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from modelworks.courier import caller
from modelworks.courier.caller import Pool
from modelworks.courier.counters import Counters
from modelworks.courier.database import Away, Link
from modelworks.courier.lanes import Lane, Lanes
from modelworks.courier.ledger import Ledger
from modelworks.courier.outcome import Answer, Broken, Result, Retry, exhausted, follows
from modelworks.courier.service import Service
from modelworks.db import tasks as sql
from modelworks.gateway.hung import Silence, forgiven, hanging, hung
from modelworks.gateway.table import parse_address
from modelworks.relay import Secrets

_MOST_ROWS = 64
_LARGE = 256 * 1024  # bytes of a body; of such ones fewer are claimed at once
_MOST_BYTES = 128 * 1024 * 1024  # of bodies and unwritten results in memory
_MOST_UNSAVED = 2000
_LOOK = 1.0  # seconds between claims where nothing says that there is work: retries, and other couriers' submissions
_Row = tuple[str, int, dict[str, Any], bytes]
_REST = 0.25  # how long a replica is left alone where nobody listens
# Tasks differ more than what somebody waits for, and are done again from their beginning: more is needed to call a
# silence a hang than where a caller waits.
_LEAST_SILENCE, _TIMES = 30.0, 10.0
_ASLEEP = 1.0  # seconds by which a look is late when it was us who did not listen
log = logging.getLogger("modelworks.courier.dispatcher")


@dataclass
class _Station:
    """One service at work. ``hungry``: there may be tasks to claim. ``silence``: how long its replicas say nothing."""

    service: Service
    counters: Counters
    lanes: Lanes = field(default_factory=Lanes)
    pools: dict[tuple[str, str], Pool] = field(default_factory=dict)  # by address and run
    silence: Silence = field(default_factory=lambda: Silence(_LEAST_SILENCE, _TIMES))
    hungry: bool = True
    most: int = _MOST_ROWS


class Dispatcher:
    """``number`` names this courier in its leases, so that those of one that has died are known. ``alert`` is called
    when replicas hang that did not, or answer again; ``secrets`` are those of relays."""

    def __init__(
        self,
        number: int,
        claims: Link,
        leases: Link,
        ledger: Ledger,
        alert: Callable[[], None],
        secrets: Secrets | None = None,
    ) -> None:
        self.number = number
        self.couriers = 1
        self._claims, self._leases, self._ledger, self._alert = claims, leases, ledger, alert
        self._secrets = secrets or Secrets()
        self._stations: dict[str, _Station] = {}
        self._epoch = itertools.count(1)
        self._wake = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self._held: dict[str, tuple[str, float]] = {}  # id → lease, seconds
        self._some_held = asyncio.Event()
        self._bytes = 0
        self._draining = False

    def update(self, services: Mapping[str, Service], counters: Mapping[str, Counters], couriers: int) -> None:
        """Follow the routes, and how many couriers share the replicas."""
        self.couriers = couriers
        for uid in set(self._stations) - set(services):
            station = self._stations.pop(uid)
            station.lanes.update((), 1, {}, 1)
            for pool in station.pools.values():
                pool.close()
        for uid, service in services.items():
            station = self._stations.get(uid) or _Station(service, counters[uid])
            self._stations[uid] = station
            station.service = service
            route = service.route
            station.lanes.update(route.replicas, route.concurrency, route.weights, couriers)
            wanted = {(replica.address, replica.run) for replica in route.replicas}
            for key in set(station.pools) - wanted:
                station.pools.pop(key).close()
            self._tell_hung(station)
            station.hungry = True
        self._wake.set()

    def arrived(self, uid: str) -> None:
        """A task has been stored."""
        station = self._stations.get(uid)
        if station is not None:
            station.hungry = True
            self._wake.set()

    @property
    def working(self) -> int:
        return len(self._working)

    async def run(self) -> None:
        """Claim and send until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            group.create_task(self._look())
            while True:
                await self._wake.wait()
                self._wake.clear()
                for station in list(self._stations.values()):
                    try:
                        await self._fill(station)
                    except Away:
                        self._again_soon()

    async def drain(self, timeout: float) -> None:
        """Take up nothing more; wait for what is under way, and give back the rest at once."""
        self._draining = True
        if self._working:
            await asyncio.wait(self._working, timeout=timeout)
        for task in list(self._working):
            task.cancel()
        if self._working:
            await asyncio.wait(self._working, timeout=1.0)

    async def _fill(self, station: _Station) -> None:
        full = self._ledger.depth > _MOST_UNSAVED or self._bytes + self._ledger.bytes > _MOST_BYTES
        if self._draining or not station.hungry or full:
            return
        now = asyncio.get_running_loop().time()
        # Places are taken before the tasks: no task is claimed for which there is none.
        lanes = [lane for lane in (station.lanes.take(now) for _ in range(station.most)) if lane is not None]
        if not lanes:
            return
        service = station.service
        lease = f"{self.number}-{next(self._epoch)}"
        terms = {"uid": service.uid, "limit": len(lanes), "lease": lease, "seconds": service.terms.lease}
        station.hungry = False  # what is stored from here on says so again
        rows: list[_Row] = []
        try:
            rows = await self._claims.run(lambda connection: _fetch(connection, terms))
        except Away:
            station.hungry = True
            raise
        finally:
            for lane in lanes[len(rows) :]:
                station.lanes.back(lane)
        if len(rows) == len(lanes):
            station.hungry = True
            self._wake.set()
        if rows:
            station.most = 8 if sum(len(row[3]) for row in rows) / len(rows) > _LARGE else _MOST_ROWS
        for lane, (id, attempt, request, body) in zip(lanes, rows, strict=False):
            self._held[id] = lease, service.terms.lease
            self._some_held.set()
            self._bytes += len(body)
            task = asyncio.create_task(self._attempt(station, lane, id, lease, attempt, request, bytes(body)))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    async def _attempt(
        self, station: _Station, lane: Lane, id: str, lease: str, attempt: int, request: dict[str, Any], body: bytes
    ) -> None:
        terms = station.service.terms
        outcome: Retry | Result = Retry(0.0, free=True)  # when it is cut off: somebody else may have it at once
        try:
            if attempt > terms.attempts:
                station.lanes.put(lane, good=False)
                outcome = exhausted(terms.attempts)
            else:
                try:
                    found = await self._send(station, lane, id, attempt, request, body)
                except Exception as error:
                    # Ours, and it would come again at once, for ever, if the attempt did not count.
                    log.exception("an attempt failed", extra={"task": id})
                    found = Broken(f"the courier failed: {type(error).__name__}", sent=True)
                outcome = follows(found, attempt, terms.attempts)
        finally:
            self._bytes -= len(body)
            if self._held.get(id, ("",))[0] == lease:  # else it was lost, and the task is held under another by now
                del self._held[id]
            if isinstance(outcome, Result):
                finished = station.counters.finished
                finished[outcome.status] = finished.get(outcome.status, 0) + 1
                self._ledger.finish(id, lease, outcome, terms.result_ttl)
            else:
                station.counters.retried += not outcome.free
                self._ledger.release(id, lease, outcome)
                if outcome.delay < _LOOK:
                    asyncio.get_running_loop().call_later(outcome.delay + 0.05, self.arrived, station.service.uid)
            self._wake.set()

    async def _send(
        self, station: _Station, lane: Lane, id: str, attempt: int, request: dict[str, Any], body: bytes
    ) -> Answer | Broken:
        loop = asyncio.get_running_loop()
        revision = station.counters.revision(lane.replica.revision)
        revision.in_flight += 1
        began, good = loop.time(), False
        found: Answer | Broken | None = None
        silent = True

        def said() -> None:
            nonlocal silent
            now, hung = loop.time(), lane.hung
            if silent:
                silent = False
                station.silence.note(now - began)
            lane.said(now)
            if hung:
                self._tell_hung(station)

        lane.asked(began)
        try:
            found = await self._ask(station, lane, id, attempt, request, body, said)
            good = isinstance(found, Answer) and found.status < 500
            return found
        finally:
            revision.in_flight -= 1
            lane.ended(loop.time(), reached=not isinstance(found, Broken) or found.sent)
            station.lanes.put(lane, good=good)
            if isinstance(found, Answer) or (isinstance(found, Broken) and found.sent):
                revision.add(loop.time() - began, error=not good)
            elif isinstance(found, Broken):
                lane.resting_until = loop.time() + _REST
                loop.call_later(_REST, self._wake.set)

    async def _ask(
        self,
        station: _Station,
        lane: Lane,
        id: str,
        attempt: int,
        request: dict[str, Any],
        body: bytes,
        said: Callable[[], None],
    ) -> Answer | Broken:
        address = lane.replica.address
        key = (address, lane.replica.run)
        pool = station.pools.get(key)
        if pool is None or pool.closed:
            run = lane.replica.run
            preface = partial(self._secrets.preface, run) if run else None
            pool = station.pools[key] = Pool(parse_address(address), preface)
        headers = [(name, value) for name, value in request["headers"]]
        headers += [("X-Mw-Task-Id", id), ("X-Mw-Task-Attempt", str(attempt))]
        data = caller.request(request["method"], request["path"], "replica", headers, body)
        return await pool.ask(data, silence=station.service.route.keepalive, said=said)

    async def _renew(self) -> None:
        """Each lease is renewed when a third of it has gone, all that are due in one statement."""
        renewed: dict[str, tuple[str, float]] = {}  # id → lease, when
        while True:
            if not self._held:
                self._some_held.clear()
                await self._some_held.wait()
            await asyncio.sleep(min(seconds for _, seconds in self._held.values()) / 12)
            now, due = time.monotonic(), []
            renewed = {id: renewed[id] for id, (lease, _) in self._held.items() if renewed.get(id, ("",))[0] == lease}
            for id, (lease, seconds) in self._held.items():
                _, since = renewed.setdefault(id, (lease, now))
                if now - since >= seconds / 3:
                    due.append((id, lease, seconds))
            if due:
                with contextlib.suppress(Away):  # again in the next round; a lease that ends meanwhile is another's
                    await self._leases.run(lambda connection, due=due: _extend(connection, due))  # type: ignore[misc]
                    renewed |= {id: (lease, now) for id, lease, _ in due}

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(_LOOK)
            now = loop.time()
            late, last = now - last - _LOOK, now
            for station in self._stations.values():
                station.hungry = True
                self._find_hung(station, now, late if late > _ASLEEP else 0.0)
            if self._stations:
                self._wake.set()

    def _find_hung(self, station: _Station, now: float, deaf: float) -> None:
        """Who is to get nothing more, and who may again; for ``deaf`` seconds it was us who did not listen."""
        lanes = station.lanes.lanes
        for lane in lanes:
            lane.heard += deaf
        station.silence.sweep(now)
        route = station.service.route
        for lane in hanging(lanes, now, station.silence.allowed(route.hang_timeout, route.keepalive)):
            lane.hung = True
            log.warning(
                "replica %s of %s holds %d tasks and has said nothing for %.1f s: it gets no more",
                lane.replica.id, route.service, lane.owed, now - lane.heard,
            )  # fmt: skip
        for lane in forgiven(lanes, now):
            lane.forgive()
        self._tell_hung(station)

    def _tell_hung(self, station: _Station) -> None:
        found = hung(station.lanes.lanes)
        if found != station.counters.hung:
            station.counters.hung = found
            self._alert()

    def _again_soon(self) -> None:
        asyncio.get_running_loop().call_later(0.2, self._wake.set)


async def _fetch(connection: Any, terms: Mapping[str, Any]) -> list[_Row]:
    return list(await (await connection.execute(sql.CLAIM, terms)).fetchall())


async def _extend(connection: Any, due: list[tuple[str, str, float]]) -> None:
    ids, leases, seconds = zip(*due, strict=True)
    await connection.execute(sql.RENEW, (list(ids), list(leases), list(seconds)))
