"""An agent inside this process, as a Runtime: for ``mw job run --local`` and for tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Self, TypeVar

from modelworks.agent.agent import Agent
from modelworks.home import Home
from modelworks.kernel.run import NodeObservation, RunObservation, RunSpec

T = TypeVar("T")


class InProcessAgent:
    """A Runtime (see ``runtime/base``) over an event loop in a thread of its own. Use as a context manager."""

    def __init__(self, home: Home) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agent", daemon=True)
        self._home = home
        self._agent: Agent

    def __enter__(self) -> Self:
        self._thread.start()
        self._agent = self._do(_opened(self._home))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._agent.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def node(self) -> NodeObservation:
        return self._agent.node()

    def ensure(self, run: RunSpec) -> RunObservation:
        return self._do(self._agent.ensure(run))

    def challenge(self) -> str:
        return self._agent.challenges.give()

    def renew(self, challenge: str) -> None:
        self._do(self._agent.renew(challenge))

    def stop(self, key: str, grace: float, reason: str = "Stopped", message: str = "") -> None:
        self._do(self._agent.stop(key, grace, reason, message))

    def observe(self, prefix: str = "") -> Sequence[RunObservation]:
        return self._agent.observe(prefix)

    def changes(self, since: int, timeout: float) -> tuple[int, Sequence[str]]:
        return self._do(self._agent.changes(since, timeout))

    def log(self, key: str, offset: int = 0, limit: int = 1 << 20, part: str = "log") -> bytes:
        return self._do(self._agent.log(key, offset, limit, part))

    def metrics(self, key: str) -> Iterator[dict[str, float]]:
        return iter(self._do(self._agent.metrics(key)))

    def stacks(self, key: str, record: bool = False) -> str:
        return self._do(self._agent.stacks(key, record))

    def forget(self, key: str) -> None:
        self._do(self._agent.forget(key))

    def stop_all(self, grace: float) -> int:
        return self._do(self._agent.stop_all(grace))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _opened(home: Home) -> Agent:
    agent = Agent(home)
    await agent.open()
    return agent
