"""The controller: the API, the reconcilers and the scheduler in one process, which may die and return at any time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import FrameType

import uvicorn
from sqlalchemy import Engine

from modelworks.api.app import create_app
from modelworks.control.act import Actor, Sweeps
from modelworks.control.cluster import RayNodes
from modelworks.control.context import Context
from modelworks.control.doors import LocalNode, NodeSource, SocketDirectory
from modelworks.control.fleet import Fleet
from modelworks.control.followers import Followers
from modelworks.control.kinds import KINDS
from modelworks.control.nodes import Nodes
from modelworks.control.periodic import Periodic, Task, trim_events
from modelworks.control.reconcile import Reconciler
from modelworks.control.reservations import Reserver
from modelworks.control.scheduler import Scheduler
from modelworks.control.traffic import TrafficStore
from modelworks.control.tuner import Tuner
from modelworks.control.usage import UsageReader
from modelworks.db.engine import connect
from modelworks.db.listen import CLAIMS, RESOURCES, Listener
from modelworks.db.schema import is_current
from modelworks.db.secrets import Cipher
from modelworks.heap import keep_loaded
from modelworks.home import Home
from modelworks.kernel.errors import Unavailable
from modelworks.objectstore.credentials import Credentials
from modelworks.products.storage.facade import MEASURE_EVERY_S, measure
from modelworks.runtime.ray.bridge_client import BridgeClient
from modelworks.settings import Settings

_log = logging.getLogger(__name__)

_LONGEST_PAUSE = 2.0
_ADDRESS_POLL = 0.05
_TICK = 1.0
_DRAIN = 5  # seconds that requests under way may take after SIGTERM; streams end then
_TRIM_INTERVAL = 3600.0


def run(home: Home) -> None:
    """Serve until SIGTERM. Waits for the database at the start, and outlives its absences."""
    settings = Settings.load(home)
    url = _database_url(home)
    engine = connect(url, name="modelworks-controller")
    _wait_for_schema(engine, home)
    bridge = BridgeClient(home.bridge_socket) if settings.ray_address is not None else None
    fleet, listener = Fleet(expected=1 if bridge is None else 0), Listener(url)
    traffic = TrafficStore(lambda uid: reconciler.wake(uid))
    usage = UsageReader(fleet, lambda uid: reconciler.wake(uid))
    context = Context(
        engine=engine,
        home=home,
        settings=settings,
        kinds=KINDS,
        runtimes=fleet,
        cipher=Cipher.load(home.secrets / "master.key"),
        credentials=lambda: _credentials(home),
        listener=listener,
        traffic=traffic.peek,
        holders=fleet.holders,
    )
    tuner = Tuner(url)
    sweeps = Sweeps(KINDS, settings, tuner)
    actor = Actor(engine, fleet, context.cipher, context.credentials, home.volumes, sweeps)
    reconciler = Reconciler(engine, KINDS, settings, fleet, actor, owner=_owner(home), traffic=traffic, usage=usage)
    scheduler = Scheduler(engine, reserve=bridge is not None)
    reservers = () if bridge is None else (Reserver(engine, bridge),)
    sources: Sequence[NodeSource] = (
        (LocalNode(home.agent_socket), SocketDirectory(home.node_sockets, settings.node_lease))
        if bridge is None
        else (RayNodes(bridge, settings.node_lease),)
    )
    nodes = Nodes(sources, fleet, engine, reconciler.wake, home.run / "leases.lock")
    followers = Followers(home, traffic)
    periodic = Periodic(
        [
            Task("trim events", _TRIM_INTERVAL, lambda: trim_events(engine)),
            Task("measure buckets", MEASURE_EVERY_S, lambda: measure(context)),
        ]
    )
    listener.subscribe(RESOURCES, reconciler.wake)
    listener.subscribe(CLAIMS, scheduler.wake)
    for reserver in reservers:
        listener.subscribe(CLAIMS, reserver.wake)
    app = create_app(context)
    keep_loaded()
    threads = (listener, nodes, scheduler, *reservers, reconciler, followers, usage, periodic)
    for thread in threads:
        thread.start()
    # uvicorn raises the signal again when it is done, and this is what it then meets.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _serve(app, home.controller_socket)
    finally:
        for thread in reversed(threads):
            thread.stop()
        tuner.stop()
        engine.dispose()


def _database_url(home: Home) -> str:
    """What `mw up` wrote down, of the embedded database or of the one that ``MW_DATABASE_URL`` named then.

    Never the variable itself: that is libpq's form, and may be missing where this process is started again. At a home's
    first start this process loads while the database is made, and waits for the file.
    """
    path = home.secrets / "database.json"
    told = False
    while not path.exists():
        if not told:
            _log.info("controller.waits_for_address", extra={"path": str(path)})
            told = True
        time.sleep(_ADDRESS_POLL)
    return str(json.loads(path.read_text("utf-8"))["url"])


def _credentials(home: Home) -> Credentials:
    """Read each time: the store's keys are made beside this process's start, and may be rotated."""
    path = home.secrets / "s3.json"
    if not path.exists():
        raise Unavailable("the object store is not set up yet", retry_after=1.0)
    return Credentials.load(path)


def _owner(home: Home) -> str:
    """This home's controller on this machine: when it returns after a kill, the leases of its old self are its own."""
    return sha256(f"{socket.gethostname()}:{home.root}".encode()).hexdigest()[:12]


def _wait_for_schema(engine: Engine, home: Home) -> None:
    """Migrate when the schema is not this version's, in a process of its own: what that loads is not needed again."""
    pause = 0.1
    while True:
        try:
            if is_current(engine):
                return
            migration = [sys.executable, "-m", "modelworks.main", "migrate", "--home", str(home.root)]
            subprocess.run(migration, check=False)
        except Unavailable as error:
            _log.info("controller.waits_for_database", extra={"reason": error.detail})
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


class _Server(uvicorn.Server):
    """Looks at the clock once a second, for the date in its answers. uvicorn's own looks ten times, to see its end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _TICK)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """In the main thread, between any two steps of the loop."""
        super().handle_exit(sig, frame)
        self._ending.set()


def _serve(app: object, path: Path) -> None:
    """The API on a Unix socket that only this account can use."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(256)
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            loop="uvloop",
            http="httptools",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_DRAIN,
        )
        _Server(config).run(sockets=[listening])
    path.unlink(missing_ok=True)
