"""Several real agents as nodes of one platform, each behind a network that can be cut and healed."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from tests import engines
from tests.agents import AgentProcess, poll, running_agent
from tests.cli_platform import Mw

from modelworks.db import nodes as table
from modelworks.db.engine import connect


class Network:
    """The way to one agent. What is sent while it is cut arrives when it is healed, as late as that may be."""

    def __init__(self, front: Path, back: Path) -> None:
        self._front, self._back = front, back
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"network-{front.stem}", daemon=True)
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Network:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    async def _listen(self) -> None:
        self._front.parent.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._front))

    async def _end(self) -> None:
        self._server.close()
        self._front.unlink(missing_ok=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._open.wait()
            inner, outer = await asyncio.open_unix_connection(str(self._back))
            try:
                await asyncio.gather(self._pass(reader, outer), self._pass(inner, writer))
            finally:
                outer.close()
        except (OSError, asyncio.CancelledError):
            pass  # one of them is gone: so is the connection
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            await self._open.wait()
            target.write(data)
            await target.drain()
        target.write_eof()


@dataclass(frozen=True)
class ClusterNode:
    name: str
    agent: AgentProcess
    network: Network


@contextmanager
def nodes(mw: Mw, count: int, cpu: int = 1) -> Iterator[dict[str, ClusterNode]]:
    """``count`` nodes of a platform that is up, by name; its own machine takes no work any more."""
    with ExitStack() as stack:
        engine = stack.enter_context(_database(mw))
        found = {}
        for number in range(count):
            name = f"node-{number}"
            home = stack.enter_context(engines.temporary_home())
            home.secrets.mkdir(mode=0o700)
            shutil.copy(mw.home.secrets / "agent.json", home.secrets)
            environment = {"MW_NODE_NAME": name, "MW_NODE_CPU": str(cpu), "MW_NODE_MEMORY": "2Gi"}
            agent = stack.enter_context(running_agent(home, **environment))
            network = stack.enter_context(Network(mw.home.node_sockets / f"{name}.sock", home.agent_socket))
            found[name] = ClusterNode(name, agent, network)
        poll(lambda: _known(engine) >= found.keys())
        with engine.begin() as connection:
            for name in _known(engine) - found.keys():
                table.cordon(connection, name)
        yield found


def answers(mw: Mw, name: str) -> bool:
    """Whether the platform hears of the node."""
    with _database(mw) as engine, engine.connect() as connection:
        node = table.get(connection, name)
    return node is not None and node.away_at is None


@contextmanager
def _database(mw: Mw) -> Iterator[Engine]:
    engine = connect(json.loads((mw.home.secrets / "database.json").read_text())["url"], name="test")
    try:
        yield engine
    finally:
        engine.dispose()


def _known(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return {node.observation.name for node in table.everything(connection)}
