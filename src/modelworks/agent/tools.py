"""What all runs of a node share: engines of the machine, the object store, threads, and who holds which CPU."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from modelworks.agent.cache import InputCache
from modelworks.agent.environments import Environments
from modelworks.agent.node import GpuMonitor, observe_node
from modelworks.agent.relaykeeper import RelayKeeper
from modelworks.home import Home
from modelworks.kernel.errors import Unavailable
from modelworks.kernel.quantities import parse_bytes
from modelworks.kernel.run import RunSpec
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.runtime import container, launch
from modelworks.runtime.launch import Gpu
from modelworks.runtime.limits import choose_cpus
from modelworks.runtime.local import LocalRuntime
from modelworks.runtime.rundir import RunDirectory
from modelworks.runtime.sandbox import probe

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)

# Short, since every user of the client repeats, and says meanwhile what it waits for.
_STORE_DEADLINE = 3.0  # seconds
_CACHE_SHARE = 0.2  # of the file system, unless MW_CACHE_BYTES says otherwise


class Holder(Protocol):
    """A run, as far as it holds things of the node."""

    @property
    def spec(self) -> RunSpec: ...
    @property
    def cpus(self) -> tuple[int, ...]: ...
    @property
    def gpus(self) -> tuple[Gpu, ...]: ...
    @property
    def ended(self) -> bool: ...


class Tools:
    """Made once an agent, inside its event loop."""

    def __init__(self, home: Home, loop: asyncio.AbstractEventLoop, holders: Callable[[], list[Holder]]) -> None:
        self.home = home
        self.loop = loop
        self.runtime = LocalRuntime()
        self.isolation = probe()
        self.gpus = GpuMonitor()
        self.node = observe_node(self.isolation, self.gpus.gpus)
        self.node_name = self.node.name
        self.relay = RelayKeeper(home, self.node.address)
        self.client = ObjectClient(self.credentials, deadline=_STORE_DEADLINE)
        self.cache = InputCache(home.agent / "cache", self.client, _cache_bound(home.agent))
        self.environments = Environments(home.agent / "environments", self.isolation)
        self.children: list[subprocess.Popen[bytes]] = []
        self._holders = holders
        # Two pools: a download of an hour must not keep a run from writing its files.
        self._quick = ThreadPoolExecutor(4, "quick")
        self._slow = ThreadPoolExecutor(16, "slow")

    def credentials(self) -> Credentials:
        """The agent's own rights at the store. Raises Unavailable while there are none."""
        path = self.home.secrets / "agent.json"
        try:
            return Credentials.load(path)
        except FileNotFoundError:
            raise Unavailable(f"there are no credentials of the object store yet ({path})", retry_after=1.0) from None

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Short work on the disk, in a thread."""
        return await self.loop.run_in_executor(self._quick, lambda: function(*args, **kwargs))

    async def work(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Long work: downloads, uploads, builds."""
        return await self.loop.run_in_executor(self._slow, lambda: function(*args, **kwargs))

    def address(self, spec: RunSpec) -> str | None:
        """Where a replica that is ready is reached, if it can be."""
        if spec.listen is None or spec.relay:
            return self.relay.address if spec.listen else None
        return f"unix:{launch.socket_path(self.home, spec.key)}"

    def assign(self, spec: RunSpec) -> tuple[tuple[int, ...], tuple[Gpu, ...]]:
        """The CPUs used least and free GPUs. The controller counts; this only chooses which."""
        used: dict[int, float] = {}
        taken: set[str] = set()
        for holder in self._holders():
            if not holder.ended and holder.spec.key != spec.key:
                for cpu in holder.cpus:
                    used[cpu] = used.get(cpu, 0.0) + holder.spec.resources.cpu / len(holder.cpus)
                taken.update(gpu.uuid for gpu in holder.gpus)
        free = [gpu for gpu in self.gpus.gpus if gpu.uuid not in taken]
        cpus = choose_cpus(spec.resources.cpu, os.sched_getaffinity(0), used)
        return tuple(cpus), tuple(free[: spec.resources.gpu])

    def release(self, holder: Holder) -> None:
        """An ended run lets go of its inputs; shims that ended are collected."""
        if holder.ended:
            self.cache.release(holder.spec.key)
        self.children = [child for child in self.children if child.poll() is None]

    def clear(self, directory: RunDirectory) -> None:
        """Drop what an ended run leaves on the machine, except its account of itself."""
        self.relay.dismiss(directory.spec())
        if directory.spec().image:
            container.remove(directory.key)
        directory.clear_scratch()
        self.runtime.cgroups.remove(directory.key)
        shutil.rmtree(launch.socket_directory(self.home, directory.key), ignore_errors=True)


def _cache_bound(folder: Path) -> int:
    text = os.environ.get("MW_CACHE_BYTES")
    return parse_bytes(text) if text else int(_CACHE_SHARE * shutil.disk_usage(folder).total)
