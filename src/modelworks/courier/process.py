"""The courier's process: asynchronous services' tasks are taken in, kept, worked off and told of; drains on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from functools import partial
from typing import Any

import uvloop

from modelworks.cipher import Cipher
from modelworks.courier.capture import Captures, to_store
from modelworks.courier.control import Control, bind, unbind
from modelworks.courier.counters import Counters, render, source
from modelworks.courier.database import Link
from modelworks.courier.desk import Desk
from modelworks.courier.dispatcher import Dispatcher
from modelworks.courier.house import House, services_by_name
from modelworks.courier.http import Connection
from modelworks.courier.ledger import Ledger
from modelworks.courier.service import Service
from modelworks.courier.submit import Submitter
from modelworks.courier.waiting import Waiting
from modelworks.courier.webhooks import Webhooks
from modelworks.home import Home
from modelworks.relay import Secrets

_DRAIN = 8.0  # seconds; what has not ended then is given back, and done again by who comes next


def run(home: Home) -> None:
    """Serve until SIGTERM or SIGINT."""
    uvloop.run(serve(home))


async def serve(home: Home) -> None:
    """Everything of the process that lives in its loop."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    courier = Courier(home)
    control = Control(home.courier_control_socket, source(), courier.metrics, courier.status, courier.report)
    courier.urgent = control.urgent
    await control.start()
    await courier.captures.start()
    bound, inode = bind(home.courier_socket)
    server = await loop.create_unix_server(courier.connection, sock=bound)
    gc.collect()
    gc.freeze()
    background = courier.start()
    stopped = asyncio.create_task(stopping.wait())
    done, _ = await asyncio.wait({stopped, *background}, return_when=asyncio.FIRST_COMPLETED)
    courier.draining = True
    unbind(home.courier_socket, inode)
    server.close()
    await courier.captures.stop()
    await courier.drain()
    control.stop()
    for task in (*background, stopped):
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    await courier.close()
    for task in done - {stopped}:
        task.result()  # a part that ended by itself has failed: the supervisor starts the process again


class Courier:
    """The parts, and what they tell each other."""

    def __init__(self, home: Home) -> None:
        self.draining = False
        self.urgent: Any = lambda: None
        self.services: dict[str, Service] = {}
        self._counters: dict[str, Counters] = {}
        self._connections: set[Connection] = set()
        self._links: list[Link] = []
        link = partial(self._link, home)
        self.captures = Captures(home.capture_socket, to_store(home))
        self._waiting = Waiting(link("wait"))
        self._submitter = Submitter(link("submit"))
        self._ledger = Ledger(link("ledger"), self._written)
        self._house = House(partial(link, "house"), self._submitter, self.counters, self._changed)
        own = Secrets(partial(Cipher.load, home.secrets / "master.key", make=False))
        self._dispatcher = Dispatcher(
            self._house.number, link("claim"), link("lease"), self._ledger, lambda: self.urgent(), own
        )
        read = link("read")
        self._webhooks = Webhooks(home, read, self.services, self.counters)
        self._desk = Desk(self.services, self.counters, self._submitter, read, self._waiting, self._stored)

    def connection(self) -> Connection:
        return Connection(self._desk.answer, self._connections, lambda: self.draining)

    def start(self) -> set[asyncio.Task[None]]:
        """Everything that goes on beside the requests."""
        parts = (
            self._submitter.run(), self._ledger.run(), self._house.run(), self._dispatcher.run(),
            self._waiting.run(), self._webhooks.run(), self.captures.run(),
        )  # fmt: skip
        return {asyncio.create_task(part) for part in parts}

    def counters(self, uid: str) -> Counters:
        found = self._counters.get(uid)
        if found is None:
            found = self._counters[uid] = Counters()
        return found

    def metrics(self) -> str:
        """Prometheus text."""
        return render(services_by_name(self.services, self.counters), self.captures.kept, self.captures.dropped)

    def report(self) -> dict[str, Any]:
        """The services of a traffic report, by uid."""
        return {uid: self.counters(uid).report(whole=self._house.keeper) for uid in self.services}

    def status(self) -> dict[str, Any]:
        return {
            "draining": self.draining,
            "connections": len(self._connections),
            "couriers": self._dispatcher.couriers,
            "keeper": self._house.keeper,
            "working": self._dispatcher.working,
            "unwritten": self._ledger.depth,
            "captured_bytes": self.captures.waiting,
            "services": {
                one.route.service: {
                    "state": one.route.state,
                    "replicas": len(one.route.replicas),
                    "pending": self.counters(uid).pending,
                    "in_flight": self.counters(uid).in_flight,
                }
                for uid, one in self.services.items()
            },
        }

    async def drain(self) -> None:
        """Answer what has come, end what is under way, write what became of it."""
        for connection in list(self._connections):
            if connection.idle:
                connection.close()
        await self._dispatcher.drain(_DRAIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._ledger.flushed()

    async def close(self) -> None:
        for connection in list(self._connections):
            connection.close()
        for link in self._links:
            await link.close()

    def _link(self, home: Home, name: str, prepare: Any = None, stirred: Any = None) -> Link:
        link = Link(home, name, prepare, stirred)
        self._links.append(link)
        return link

    def _changed(self, services: dict[str, Service], couriers: int) -> None:
        # The parts hold this very mapping.
        if services is not self.services:
            for uid in set(self.services) - set(services):
                self._counters.pop(uid, None)
            self.services.clear()
            self.services.update(services)
        self._dispatcher.update(self.services, {uid: self.counters(uid) for uid in self.services}, couriers)
        self._webhooks.tell()

    def _stored(self, uid: str) -> None:
        self._dispatcher.arrived(uid)
        if not self.services[uid].route.replicas:
            # One more than was measured: who scales from zero should not have to wait for the next look.
            self.counters(uid).pending += 1
            self.urgent()

    def _written(self, ids: list[str]) -> None:
        self._waiting.tell(ids)
        self._webhooks.tell()
