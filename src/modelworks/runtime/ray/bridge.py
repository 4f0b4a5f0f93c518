"""The bridge: ``run(home)`` joins the Ray cluster of ``MW_RAY_ADDRESS`` and offers its nodes as Unix sockets.

| call at ``run/bridge.sock`` | what |
|---|---|
| ``GET /healthz`` | ``{status}``: the process lives; says nothing of Ray |
| ``GET /nodes?since=&timeout=`` | ``{cursor, connected, message, nodes}``; waits for a change after ``since`` |
| ``GET /groups`` | ``{groups}``: ``{name, ready, nodes}`` each |
| ``PUT /groups`` | ``{name, bundles: [{node, cpu, memory, gpu}], timeout}`` → ``{ready, message}``; may be repeated |
| ``DELETE /groups?name=`` | |
| ``POST /stop-all`` | ``{grace}`` → ``{stopped}``: all runs of all nodes, then groups, agents and doors |

It holds no state that matters: doors are actors that outlive it, groups are Ray's, runs are on the nodes' disks. When
Ray does not answer for long it ends, and is started again: a driver whose cluster has gone cannot join the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from modelworks.agent.http import Handler, HttpServer, Request
from modelworks.home import Home
from modelworks.kernel.errors import ModelworksError, SetupFailed, Unavailable
from modelworks.kernel.spec import Spec
from modelworks.objectstore.credentials import Credentials
from modelworks.runtime.ray.cluster import Cluster
from modelworks.runtime.ray.inventory import Amounts, Look, RayNode
from modelworks.runtime.ray.nodes import NodeDoor, NodeState
from modelworks.settings import Settings

T = TypeVar("T")

_LOOK = 0.5  # seconds between pictures of the cluster
_AWAY = 8.0  # seconds without an answer of Ray after which this process starts over
_PAUSE_FIRST, _PAUSE_MOST = 0.3, 5.0
_LONGEST_WAIT = 60.0
_THREADS = 16
log = logging.getLogger(__name__)


class BundleRequest(Spec):
    node: str
    cpu: int = 0
    memory: int = 0
    gpu: int = 0


class GroupRequest(Spec):
    name: str
    bundles: tuple[BundleRequest, ...]
    timeout: float = 0.5


class StopAllRequest(Spec):
    grace: float = 10.0


def run(home: Home) -> None:
    """Serve on ``home.bridge_socket`` until SIGTERM."""
    settings = Settings.load(home)
    if settings.ray_address is None:
        raise SetupFailed("there is no Ray cluster to join", remedy="set MW_RAY_ADDRESS to HOST:PORT, or auto")
    code = asyncio.run(_serve(home, settings))
    logging.shutdown()
    # Doors and groups are to live on, and the threads of a driver whose cluster has gone never end.
    os._exit(code)


async def _serve(home: Home, settings: Settings) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def listen_to_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

    listen_to_signals()
    bridge = Bridge(home, settings, joined=listen_to_signals)  # Ray puts handlers of its own in their place
    server = HttpServer(bridge.routes())
    await server.listen(home.bridge_socket)
    waiting, following = asyncio.create_task(stop.wait()), asyncio.create_task(bridge.follow())
    await asyncio.wait({waiting, following}, return_when=asyncio.FIRST_COMPLETED)
    if following.done():
        error = following.exception()
        log.error("bridge: it starts over: %s", error, exc_info=None if isinstance(error, Unavailable) else error)
    await server.close()
    await bridge.close()
    return 0 if waiting.done() else 1


class Bridge:
    """Use inside one event loop."""

    def __init__(self, home: Home, settings: Settings, joined: Callable[[], None]) -> None:
        self._home = home
        self._joined_now = joined
        self._settings = settings
        self._cluster: Cluster | None = None
        self._message = f"Ray at {settings.ray_address} has not answered yet"
        self._doors: dict[str, NodeDoor] = {}  # by Ray's id of the node
        self._look = Look()
        self._connected = False
        self._retired = False
        self._cursor = int(time.time() * 1000)  # greater than any of an earlier bridge
        self._changed = asyncio.Event()
        self._threads = ThreadPoolExecutor(_THREADS, "ray")

    async def follow(self) -> None:
        """Join the cluster and keep a door on each of its nodes. Returns never; raises when this has to start over."""
        cluster = await self._join()
        while not self._retired:
            try:
                look = await asyncio.wait_for(self._thread(cluster.look), _AWAY)
            except TimeoutError:
                raise Unavailable(f"Ray at {cluster.address} has not answered for {_AWAY:.0f} s") from None
            await self._see(cluster, look)
            await asyncio.sleep(_LOOK)
        await asyncio.Event().wait()

    async def close(self) -> None:
        await asyncio.gather(*(door.close() for door in self._doors.values()))

    def routes(self) -> dict[tuple[str, str], Handler]:
        return {
            ("GET", "/healthz"): self._healthz,
            ("GET", "/nodes"): self._nodes,
            ("GET", "/groups"): self._groups,
            ("PUT", "/groups"): self._reserve,
            ("DELETE", "/groups"): self._remove,
            ("POST", "/stop-all"): self._stop_all,
        }

    # -- the cluster ------------------------------------------------------------------------------------------------

    async def _join(self) -> Cluster:
        pause = _PAUSE_FIRST
        while True:
            try:
                self._credentials()
                cluster = await self._thread(lambda: Cluster(str(self._settings.ray_address)))
                await self._thread(cluster.connect)
            except (ModelworksError, OSError) as error:
                if str(error) != self._message:
                    log.warning("bridge: %s", error)
                self._message = str(error)
                self._mark()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _PAUSE_MOST)
            else:
                self._joined_now()
                log.info("bridge: joined Ray at %s", cluster.address)
                return cluster

    async def _see(self, cluster: Cluster, look: Look) -> None:
        self._look = look
        living = {node.id: node for node in look.nodes}
        for gone in self._doors.keys() - living.keys():
            log.warning("node %s (%s) is gone, says Ray", self._doors[gone].name or "?", gone[:12])
            door = self._doors.pop(gone)
            self._mark()
            await door.close()
        for node in look.nodes:
            # A node that offers nothing, as the platform's own may, gets no agent.
            if node.id not in self._doors and (node.total.cpu or node.total.gpu):
                self._doors[node.id] = self._open(cluster, node)
            if node.id in self._doors:
                self._doors[node.id].see(node, look.groups)
        if not self._connected:
            self._cluster, self._connected, self._message = cluster, True, ""
            self._mark()

    def _open(self, cluster: Cluster, node: RayNode) -> NodeDoor:
        folder = self._home.node_sockets
        folder.mkdir(mode=0o700, exist_ok=True)
        self._mark()
        return NodeDoor(
            node,
            cluster,
            folder=folder,
            configure=self._configuration,
            thread=self._thread,
            taken=self._taken,
            changed=self._mark,
        )

    def _configuration(self, node: RayNode) -> dict[str, Any]:
        """What a node's agent is told: the keys of the local one, at addresses that reach us from there."""
        return {
            "home": self._settings.agent_home,
            "env": {"MW_NODE_ADDRESS": node.address},
            "credentials": self._credentials().dump(),
            "client": {"url": self._settings.advertise_url},
        }

    def _credentials(self) -> Credentials:
        """Read each time: the store's keys may be rotated. Raises Unavailable before they are made."""
        path = self._home.secrets / "agent.json"
        try:
            found = Credentials.load(path)
        except FileNotFoundError:
            raise Unavailable(f"there are no credentials of the object store yet ({path})") from None
        endpoint = self._settings.advertise_s3_url or found.endpoint
        return found.model_copy(update={"endpoint": endpoint})

    def _taken(self, door: NodeDoor, name: str) -> str:
        """Why ``door`` cannot have the name: another node of another address has it. A restarted raylet is the same."""
        for other in self._doors.values():
            if other is door or other.name != name or other.state is not NodeState.READY:
                continue
            if other.node.address != door.node.address:
                return (
                    f"the Ray nodes {other.node.address} and {door.node.address} are both called {name}: set"
                    " MW_NODE_NAME where one of them is started"
                )
        return ""

    # -- answers ----------------------------------------------------------------------------------------------------

    async def _healthz(self, _: Request) -> Any:
        return {"status": "ok"}

    async def _nodes(self, request: Request) -> Any:
        since = int(request.number("since", 0))
        deadline = time.monotonic() + min(request.number("timeout", 0), _LONGEST_WAIT)
        while self._cursor == since and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                break
        told = {"cursor": self._cursor, "connected": self._connected, "message": self._message}
        return told | {"nodes": [door.told() for door in self._doors.values()]}

    async def _groups(self, _: Request) -> Any:
        cluster = self._joined()
        groups = await self._ray(cluster.groups)
        names = {identity: door.name for identity, door in self._doors.items()}
        return {
            "groups": [
                {"name": g.name, "ready": g.ready, "nodes": [names.get(node, "") for node in g.nodes]} for g in groups
            ]
        }

    async def _reserve(self, request: Request) -> Any:
        wish, cluster = GroupRequest.parse(request.json()), self._joined()
        ids = {door.name: identity for identity, door in self._doors.items() if door.state is NodeState.READY}
        missing = sorted({bundle.node for bundle in wish.bundles} - ids.keys())
        if missing:
            return {"ready": False, "message": f"node {', '.join(missing)} is not there"}
        bundles = [(ids[b.node], Amounts(b.cpu, b.memory, b.gpu)) for b in wish.bundles]
        ready = await self._ray(lambda: cluster.reserve(wish.name, bundles, wish.timeout))
        message = "" if ready else self._shortage(wish)
        return {"ready": ready, "message": message}

    async def _remove(self, request: Request) -> Any:
        cluster, name = self._joined(), request.text("name")
        await self._ray(lambda: cluster.remove(name))
        return {}

    async def _stop_all(self, request: Request) -> Any:
        grace, cluster = StopAllRequest.parse(request.json()).grace, self._joined()
        doors = [door for door in self._doors.values() if door.state is NodeState.READY]
        body = {"grace": grace}
        asked = (door.ask("POST", "/stop-all", body, timeout=grace + 30) for door in doors)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        self._retired = True
        for group in await self._ray(cluster.groups):
            await self._ray(partial(cluster.remove, group.name))
        await asyncio.gather(*(door.retire() for door in self._doors.values()), return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            raise Unavailable(f"not every node could be asked to stop its runs: {failed[0]}")
        return {"stopped": sum(int(answer["stopped"]) for answer in answers if isinstance(answer, dict))}

    # -- inside -----------------------------------------------------------------------------------------------------

    def _shortage(self, wish: GroupRequest) -> str:
        """Which of the nodes has less than is wished, as Ray counts."""
        names = {identity: door.name for identity, door in self._doors.items()}
        wanted: dict[str, Amounts] = {}
        for b in wish.bundles:
            wanted[b.node] = wanted.get(b.node, Amounts()).plus(Amounts(b.cpu, b.memory, b.gpu))
        told = []
        for node in self._look.nodes:
            need, free = wanted.get(names.get(node.id, "")), node.free
            if need is not None and (need.cpu > free.cpu or need.memory > free.memory or need.gpu > free.gpu):
                told.append(f"node {names[node.id]} has {free} free where {need} is needed")
        return "; ".join(told)

    def _joined(self) -> Cluster:
        if self._cluster is None:
            raise Unavailable(self._message, retry_after=1.0)
        return self._cluster

    async def _ray(self, call: Callable[[], T]) -> T:
        """A call of Ray's in a thread. Raises Unavailable with its own words."""
        cluster = self._joined()
        try:
            return await asyncio.wait_for(self._thread(call), _AWAY)
        except cluster.call_errors as error:
            raise Unavailable(f"Ray at {cluster.address}: {error or 'no answer'}", retry_after=1.0) from error

    async def _thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _mark(self) -> None:
        self._cursor += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
