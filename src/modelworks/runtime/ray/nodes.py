"""One node of the cluster, as the bridge keeps it: its door (an actor), and the socket at which its agent is asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Coroutine
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from modelworks.kernel.errors import ModelworksError, Unavailable
from modelworks.runtime import private_socket
from modelworks.runtime.ray import wire
from modelworks.runtime.ray.cluster import Cluster
from modelworks.runtime.ray.inventory import Group, RayNode
from modelworks.runtime.ray.room import Foreign, overlay

T = TypeVar("T")

_LOOK = 2.0  # seconds between questions to a door
_DESCRIBE = 30.0  # seconds for its first word: Ray has to start a process there
_CONFIGURE = 60.0
_LONGEST_CALL = 120.0
_PAUSE_FIRST, _PAUSE_MOST = 0.3, 10.0
_LONGEST_NAME = 32
_UNSAID_NOTICE = 180.0  # a node that is drained without an end
log = logging.getLogger(__name__)

Configure = Callable[[RayNode], dict[str, Any]]
Thread = Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]]


class NodeState(StrEnum):
    JOINING = "joining"  # its door was not heard of yet
    READY = "ready"
    UNUSABLE = "unusable"  # its agent cannot run there; ``problem`` says why


def socket_of(folder: Path, name: str) -> Path:
    """Where the node's agent is asked. Names of hosts may be longer than a socket's path."""
    short = name if len(name) <= _LONGEST_NAME and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) else ""
    return folder / f"{short or hashlib.sha256(name.encode()).hexdigest()[:16]}.sock"


class NodeDoor:
    """Keeps the door of one node open until ``close``. ``changed`` is called when what ``told`` returns is another.

    ``taken`` says whether another door has the name already.
    """

    def __init__(
        self,
        node: RayNode,
        cluster: Cluster,
        *,
        folder: Path,
        configure: Configure,
        thread: Thread,
        taken: Callable[[NodeDoor, str], str],
        changed: Callable[[], None],
    ) -> None:
        self.node = node
        self.name = ""
        self.state = NodeState.JOINING
        self.problem = ""
        self._cluster = cluster
        self._folder = folder
        self._configure = configure
        self._thread = thread
        self._taken = taken
        self._changed = changed
        self._foreign = Foreign()
        self._drained_at = 0.0
        self._actor: Any = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._doubted = asyncio.Event()
        self._news = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep())

    @property
    def socket(self) -> Path:
        return socket_of(self._folder, self.name)

    def told(self) -> dict[str, Any]:
        """As ``GET /nodes`` shows it."""
        return {
            "id": self.node.id,
            "name": self.name,
            "address": self.node.address,
            "state": self.state,
            "problem": self.problem,
            "socket": str(self.socket) if self._server is not None else None,
            "draining": self.node.draining,
            "deadline": self._deadline(),
        }

    def see(self, node: RayNode, groups: tuple[Group, ...]) -> None:
        """What Ray says of it now."""
        before = (self.told(), self._foreign.amounts, self.node.total)
        self.node = node
        self._foreign.add(node, groups)
        self._drained_at = (self._drained_at or time.time()) if node.draining else 0.0
        if (self.told(), self._foreign.amounts, self.node.total) != before:
            news, self._news = self._news, asyncio.Event()
            news.set()
            self._changed()

    async def close(self) -> None:
        """The node is gone, or the bridge goes; door and agent stay as they are."""
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        await self._shut()

    async def retire(self) -> None:
        """Door and agent end; what runs there was stopped before."""
        if self._actor is not None:
            actor = self._actor
            with contextlib.suppress(*self._cluster.call_errors):
                await self._await(actor.retire.remote(), _DESCRIBE)
            await self._thread(lambda: self._cluster.remove_door(actor))
        await self.close()

    async def ask(self, method: str, path: str, body: Any = None, timeout: float = _LONGEST_CALL) -> Any:
        """A question of the bridge's own to the agent. Raises Unavailable."""
        answer = await self._forward(wire.request(method, path, body), timeout)
        if wire.status(answer) >= 300:
            raise Unavailable(f"node {self.name}: {wire.split(answer)[1].decode(errors='replace')[:300]}")
        return json.loads(wire.split(answer)[1])

    # -- the door ---------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause = _PAUSE_FIRST
        while True:
            try:
                await self._open()
                pause = _PAUSE_FIRST
                await self._watch()
            except self._cluster.call_errors as error:
                said = " ".join(str(error).split())[:300]
                self._note(NodeState.UNUSABLE if self.name else NodeState.JOINING, f"its door is away: {said}")
                log.warning("node %s (%s): its door is away: %s", self.name or "?", self.node.id[:12], said)
            except (OSError, ModelworksError, ValueError, KeyError) as error:
                self._note(self.state, f"its door does not answer: {error}")
                log.warning("node %s (%s): its door does not answer: %s", self.name or "?", self.node.id[:12], error)
            self._actor = None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MOST)

    async def _open(self) -> None:
        """A door of our own edition, which has heard what its agent needs."""
        while True:
            actor = await self._thread(lambda: self._cluster.door(self.node.id))
            said = await self._await(actor.describe.remote(), _DESCRIBE)
            if said["edition"] == self._cluster.edition:
                break
            log.info("node %s: its door is of another release and is replaced", said["name"])
            await self._thread(partial(self._cluster.remove_door, actor))
        await self._await(actor.configure.remote(self._configure(self.node)), _CONFIGURE)
        self._actor = actor
        await self._hear(await self._await(actor.describe.remote(), _DESCRIBE))

    async def _watch(self) -> None:
        configured = self._configure(self.node)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._doubted.wait(), _LOOK)
            self._doubted.clear()
            wished = self._configure(self.node)
            if wished != configured:
                await self._await(self._actor.configure.remote(wished), _CONFIGURE)
                configured = wished
            await self._hear(await self._await(self._actor.describe.remote(), _DESCRIBE))

    async def _hear(self, said: dict[str, Any]) -> None:
        name, problem = str(said["name"]), str(said["problem"])
        problem = problem or self._taken(self, name)
        self.name = name
        if problem:
            self._note(NodeState.UNUSABLE, problem)
            return
        if self._server is None:
            await self._listen()
        self._note(NodeState.READY, "")

    def _note(self, state: NodeState, problem: str) -> None:
        if (state, problem) != (self.state, self.problem):
            self.state, self.problem = state, problem
            self._changed()

    async def _await(self, reference: Any, timeout: float) -> Any:
        async def wait() -> Any:
            return await reference

        return await asyncio.wait_for(wait(), timeout)

    # -- the socket -------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Take the place of a socket that an earlier bridge, or this node's earlier life, left."""
        self._server = await private_socket.serve(self.socket, self._accept, wire.MOST_HEAD)

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            if not self._taken(self, self.name):  # else it is the socket of the one that came after
                self.socket.unlink(missing_ok=True)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            while (message := await wire.read_message(reader)) is not None:
                writer.write(await self._answer(message))
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            return  # the caller went away, or does not speak HTTP; or we close
        finally:
            writer.close()

    async def _answer(self, message: bytes) -> bytes:
        method, path, query = wire.target(message)
        if (method, path) == ("GET", "/changes"):
            return await self._changes(message, query.get("since", "0"))
        answer = await self._forward(message, _LONGEST_CALL)
        if (method, path) == ("GET", "/node") and wire.status(answer) == 200:
            said = json.loads(wire.split(answer)[1])
            return wire.answer(200, overlay(said, self.node, self._foreign.amounts, self._deadline()))
        return answer

    async def _changes(self, message: bytes, since: str) -> bytes:
        """Whoever waits for changes of runs hears at once when the node itself is another: it is to go, say."""
        asking, news = (
            asyncio.create_task(self._forward(message, _LONGEST_CALL)),
            asyncio.create_task(self._news.wait()),
        )
        try:
            await asyncio.wait({asking, news}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else wire.answer(200, {"cursor": int(float(since)), "keys": []})
        finally:
            asking.cancel()
            news.cancel()

    async def _forward(self, message: bytes, timeout: float) -> bytes:
        actor = self._actor
        if actor is None:
            return wire.problem(Unavailable(f"node {self.name}: {self.problem or 'it is joining'}", retry_after=1.0))
        try:
            answer: bytes = await self._await(actor.http.remote(message), timeout)
        except self._cluster.call_errors as error:
            self._doubted.set()
            said = " ".join(str(error).split())[:300] or f"no answer within {timeout:.0f} s"
            return wire.problem(Unavailable(f"node {self.name} cannot be asked: {said}", retry_after=1.0))
        return answer

    def _deadline(self) -> float | None:
        """When a draining node goes, in Unix seconds."""
        if not self.node.draining:
            return None
        return self.node.deadline or (self._drained_at or time.time()) + _UNSAID_NOTICE
