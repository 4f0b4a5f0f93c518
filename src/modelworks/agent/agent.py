"""The node's runs: ensure, stop, observe, changes. Everything in memory is found again on disk."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from modelworks.agent import lease, metrics, stacks
from modelworks.agent.life import RunLife
from modelworks.agent.logs import CHUNKS
from modelworks.agent.spotnotice import SpotNotice, SpotWatch
from modelworks.agent.tools import Holder, Tools
from modelworks.agent.waiting import keep
from modelworks.home import Home
from modelworks.kernel.errors import Conflict, EnvironmentFailed, NotFound
from modelworks.kernel.run import EnvironmentRef, NodeObservation, RunObservation, RunReason, RunSpec
from modelworks.runtime.processes import Processes
from modelworks.runtime.rundir import RunStore

_WATCH_PERIOD = 0.5  # seconds between looks at logs and memory
_LEASE_PERIOD = 0.5  # seconds between looks at leases
_MOST_FORGOTTEN = 1000
log = logging.getLogger(__name__)


class Agent:
    """Use inside one event loop; ``open`` first. Several agents of one home are a mistake: ``process`` locks it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.store = RunStore(home.agent / "runs")
        self._lives: dict[str, RunLife] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._builds: dict[str, asyncio.Task[Path]] = {}
        # Greater than every cursor of an earlier agent, which cannot have made more changes than milliseconds passed.
        self._cursor = self._first = int(time.time() * 1000)
        self._changed: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._begun = asyncio.Event()
        self.challenges = lease.Challenges()
        self.tools: Tools

    async def open(self) -> None:
        """Find every run again and go on with it."""
        os.umask(0o022)
        for folder in (self.home.agent, self.home.run, self.home.replica_sockets):
            folder.mkdir(parents=True, exist_ok=True)
        self.home.agent.chmod(0o700)
        self.tools = Tools(self.home, asyncio.get_running_loop(), self._holders)
        self.store.prepare()
        self.tools.cache.prepare()
        for directory in self.store.all():
            self._begin(RunLife(directory, directory.spec(), self.tools, self._mark))
        self._background = [
            asyncio.create_task(keep(duty, name))
            for name, duty in (
                ("measuring", self._measure),
                ("logs and memory", self._watch),
                ("leases", self._watch_leases),
                ("relay", partial(self.tools.relay.keep, lambda: bool(self._relayed()), self._tell_relay)),
                ("notices", partial(SpotWatch.of(self.home).watch, self.tools.call, self._tell_notice)),
            )
        ]

    async def close(self) -> None:
        """Let go of the runs; they live on."""
        tasks = [*self._background, *self._tasks.values(), *self._builds.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._relayed():
            await self.tools.relay.end()

    def node(self) -> NodeObservation:
        return self.tools.node

    async def ensure(self, spec: RunSpec) -> RunObservation:
        life = self._lives.get(spec.key)
        if life is None:
            until = self.challenges.admit(spec)
            fill = None if until is None else partial(lease.write, until=until)
            directory, _ = await self.tools.call(self.store.create, spec, fill)
            life = self._lives.get(spec.key)  # another call may have been faster while we were on the disk
            if life is None:
                life = RunLife(directory, directory.spec(), self.tools, self._mark)
                self._begin(life)
                self._mark(spec.key)
        return life.observation()

    async def renew(self, challenge: str) -> None:
        given = self.challenges.given(challenge)
        for life in list(self._lives.values()):
            if life.spec.lease is not None and not life.ended:
                try:
                    await self.tools.call(life.lease.extend, given)
                except OSError as error:  # a full disk: that run ends with its lease
                    log.warning("run %s: its lease: %s", life.spec.key, error)

    async def stop(self, key: str, grace: float, reason: str, message: str = "") -> None:
        life = self._lives.get(key)
        if life is not None:
            await self.tools.call(life.stop, grace, reason, message)

    def observe(self, prefix: str = "") -> Sequence[RunObservation]:
        return [life.observation() for key, life in sorted(self._lives.items()) if key.startswith(prefix)]

    async def changes(self, since: int, timeout: float) -> tuple[int, Sequence[str]]:
        deadline = time.monotonic() + timeout
        while self._cursor <= since <= time.time() * 1000 and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                break
        return self._cursor, [key for key, at in self._changed.items() if at > since or since > self._cursor]

    async def log(self, key: str, offset: int, limit: int, part: str = "log") -> bytes:
        if part not in CHUNKS:
            raise NotFound(f"a log has no part {part!r}", remedy=f"one of {', '.join(CHUNKS)}")
        return await self.tools.call(self._life(key).directory.read_part, part, offset, limit)

    async def metrics(self, key: str) -> list[dict[str, float]]:
        path = self._life(key).directory.metrics
        return await self.tools.call(lambda: list(metrics.read(path)))

    async def stacks(self, key: str, record: bool = False) -> str:
        """Raises Conflict for a run without a process."""
        life = self._life(key)
        started = life.started
        if life.ended or started is None:
            raise Conflict(f"run {key} has no process now", remedy="its log says what happened")
        text = await self.tools.work(stacks.capture, started.shim, key)
        if record:
            lines = stacks.log_lines(text)
            life.watch.wrote(len(lines))
            await self.tools.call(life.directory.append_log, lines)
        return text

    async def forget(self, key: str) -> None:
        life = self._lives.get(key)
        if life is None:
            return
        if not life.ended:
            raise Conflict(f"run {key} has not ended", remedy="stop it first")
        await self._tasks[key]  # it may still be tidying up
        await self.tools.call(self.store.remove, life.directory)
        self._lives.pop(key, None)
        self._tasks.pop(key, None)
        self._mark(key)

    async def stop_all(self, grace: float) -> int:
        """Stop every run and wait until they ended, uploads included; how many there were."""
        living = [life for life in self._lives.values() if not life.ended]
        await asyncio.gather(*(self.tools.call(life.stop, grace, "Stopped") for life in living))
        tasks = [self._tasks[life.spec.key] for life in living]
        if tasks:
            await asyncio.wait(tasks, timeout=grace + 10.0)
        return len(living)

    # -- environments -------------------------------------------------------------------------------------------

    def build(self, ref: EnvironmentRef) -> dict[str, str]:
        """Begin to build an environment before a run needs it; what ``environment`` says of it."""
        if self.tools.environments.python(ref) is None and ref.digest not in self._builds:
            work = self.tools.work(self.tools.environments.ensure, ref, lambda message: None)
            self._builds[ref.digest] = asyncio.create_task(work)
        return self.environment(ref)

    def environment(self, ref: EnvironmentRef) -> dict[str, str]:
        """``{digest, state: absent|building|ready|failed, message}``. A failure is told once, then tried again."""
        build = self._builds.get(ref.digest)
        if self.tools.environments.python(ref) is not None:
            self._builds.pop(ref.digest, None)
            return {"digest": ref.digest, "state": "ready", "message": ""}
        if build is None:
            return {"digest": ref.digest, "state": "absent", "message": ""}
        if not build.done():
            return {"digest": ref.digest, "state": "building", "message": ""}
        del self._builds[ref.digest]
        error = build.exception()
        if error is None:  # an image, of which there is no folder to look at
            return {"digest": ref.digest, "state": "ready", "message": ""}
        message = error.detail if isinstance(error, EnvironmentFailed) else str(error)
        return {"digest": ref.digest, "state": "failed", "message": message}

    # -- inside -------------------------------------------------------------------------------------------------

    def _begin(self, life: RunLife) -> None:
        key = life.spec.key
        self._lives[key] = life
        self._tasks[key] = asyncio.create_task(life.run(), name=key)
        if life.spec.relay:
            self.tools.relay.wake()
        self._begun.set()

    def _life(self, key: str) -> RunLife:
        life = self._lives.get(key)
        if life is None:
            raise NotFound(f"there is no run {key} on this node")
        return life

    def _holders(self) -> list[Holder]:
        return list(self._lives.values())

    def _relayed(self) -> list[str]:
        """Runs that are reached from other machines."""
        return [key for key, life in self._lives.items() if life.spec.relay and not life.ended]

    def _tell_relay(self) -> None:
        self._mark(*self._relayed())

    def _tell_notice(self, notice: SpotNotice | None) -> None:
        """The machine will be taken away, or will not: who waits for changes asks for the node again."""
        log.warning("node: %s", notice.message if notice else "the notice was taken back")
        told = {"notice_at": notice.at, "notice": notice.message} if notice else {"notice_at": None, "notice": ""}
        self.tools.node = self.tools.node.model_copy(update=told)
        self._cursor += 1
        self._wake_waiting()

    def _mark(self, *keys: str) -> None:
        """The observations of these runs are others: who waits for changes wakes up."""
        for key in keys:
            self._cursor = max(self._cursor + 1, 1)
            self._changed.pop(key, None)
            self._changed[key] = self._cursor
        forgotten = [k for k in self._changed if k not in self._lives]
        for old in forgotten[: max(0, len(forgotten) - _MOST_FORGOTTEN)]:
            del self._changed[old]
        if keys:
            self._wake_waiting()

    def _wake_waiting(self) -> None:
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()

    async def _some_live(self, leased: bool = False) -> None:
        """Until a run lives, one with a lease: without one nothing is to be watched, and an idle node sleeps."""
        while not any(not life.ended and (life.spec.lease is not None or not leased) for life in self._lives.values()):
            self._begun.clear()
            await self._begun.wait()

    async def _measure(self) -> None:
        while True:
            await self._some_live()
            await asyncio.sleep(metrics.PERIOD)
            if measured := [life for life in self._lives.values() if life.meter]:
                # Told together: the replicas of a gang are one job, which is looked at once for all of them.
                self._mark(*await self.tools.call(_look_at_usage, measured))

    async def _watch(self) -> None:
        while True:
            await self._some_live()
            await asyncio.sleep(_WATCH_PERIOD)
            if watched := [life for life in self._lives.values() if life.meter]:
                await self.tools.call(_look_at_logs_and_memory, watched)

    async def _watch_leases(self) -> None:
        """Shims end their workloads by themselves; this is for runs that have none yet, and for what is told of all."""
        told: set[str] = set()
        while True:
            await self._some_live(leased=True)
            over = {key for key, life in self._lives.items() if not life.ended and life.lease.over}
            for key in over - told:
                try:
                    await self.tools.call(self._lives[key].stop, lease.GRACE, RunReason.LEASE_EXPIRED, lease.EXPIRED)
                    told.add(key)
                except OSError as error:  # the shim needs no word of ours
                    log.warning("run %s: its lease is over: %s", key, error)
            told &= over
            await asyncio.sleep(_LEASE_PERIOD)


# One turn of a thread for all runs: each costs more than what is looked at.


def _look_at_usage(lives: Sequence[RunLife]) -> list[str]:
    """The keys of those whose observation is another."""
    seen = Processes.snapshot()
    return [life.spec.key for life in lives if _safely(life, "measuring", partial(life.observe_usage, seen))]


def _look_at_logs_and_memory(lives: Sequence[RunLife]) -> None:
    # Where the kernel limits every run, nobody's processes have to be counted.
    counted = any(life.meter and life.meter.group is None for life in lives)
    seen = Processes.snapshot() if counted else Processes(())
    for life in lives:
        _safely(life, "when its log came", life.watch.times.look)
        _safely(life, "its memory", partial(life.watch_memory, seen))


def _safely(life: RunLife, what: str, look: Callable[[], bool | None]) -> bool:
    """One run's trouble, such as a full disk, must not end the watch over the others."""
    try:
        return bool(look())
    except OSError as error:
        log.warning("run %s: %s: %s", life.spec.key, what, error)
    except Exception:  # a defect of ours; without the watch nobody would hear of runs that hang
        log.exception("run %s: %s", life.spec.key, what)
    return False
