"""One run from ``ensure`` to its end: prepare, start, attend, finalize. Every step is found again on disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from modelworks.agent import endings, preflight
from modelworks.agent.access import RunAccess
from modelworks.agent.checkpoints import PERIOD as CHECKPOINT_PERIOD
from modelworks.agent.finish import Finisher
from modelworks.agent.lastwords import own_words
from modelworks.agent.lease import RunLease
from modelworks.agent.logs import PERIOD as LOG_PERIOD
from modelworks.agent.memory import exceeded
from modelworks.agent.metrics import OBSERVED, RunMeter, Sample
from modelworks.agent.prepare import Ended, Preparation
from modelworks.agent.progress import Progress
from modelworks.agent.readiness import Readiness
from modelworks.agent.scrape import EngineMetrics
from modelworks.agent.tools import Tools
from modelworks.agent.waiting import Duty, keep, readable
from modelworks.agent.watch import RunWatch
from modelworks.kernel.errors import ModelworksError, Unavailable
from modelworks.kernel.run import Listen, RunObservation, RunPhase, RunReason, RunSpec
from modelworks.runtime import launch
from modelworks.runtime.launch import Gpu, Prepared
from modelworks.runtime.limits import out_of_memory
from modelworks.runtime.local import ProcessPhase, ProcessState
from modelworks.runtime.processes import Processes
from modelworks.runtime.rundir import Exited, RunDirectory, Started

log = logging.getLogger(__name__)

_CLAIMED_PERIOD = 0.1  # seconds between looks at a run that another agent's shim is about to start
_RETRY_FIRST, _RETRY_MOST = 0.5, 10.0  # seconds between tries while the object store is away


class RunLife:
    """Owns one run directory inside the agent. ``changed`` is called whenever its observation is another."""

    def __init__(self, directory: RunDirectory, spec: RunSpec, tools: Tools, changed: Callable[[str], None]) -> None:
        self.directory = directory
        self.spec = spec
        self.tools = tools
        self.progress = Progress()
        self.usage: Sample = {}
        self.meter: RunMeter | None = None
        self.engine = EngineMetrics(launch.socket_path(tools.home, spec.key), lambda: self.progress.ready)
        self.started: Started | None = None
        self.result = directory.result()
        self.cpus: tuple[int, ...] = ()
        self.gpus: tuple[Gpu, ...] = ()
        self.lease = RunLease(directory, spec.lease)
        self.finisher = Finisher(directory, spec, tools.client, self.lease.check)
        self.watch = RunWatch(directory, spec, lambda: self.finisher.checkpoint)
        self._changed = changed
        self._created = directory.created_at()
        self._stopping = asyncio.Event()
        self._process_ended = asyncio.Event()
        self._exited: Exited | None = None
        self._adopt_launch()

    @property
    def ended(self) -> bool:
        return self.result is not None

    def observation(self) -> RunObservation:
        """As an observer sees the run now."""
        if self.result is not None:
            return self.result
        progress, started = self.progress, self.started
        return RunObservation(
            key=self.spec.key,
            phase=progress.phase,
            reason=progress.reason,
            message=(self.tools.relay.problem if self.spec.relay and progress.ready else "") or progress.message,
            node=self.tools.node_name,
            pid=started.pid if started else None,
            created_at=self._created,
            started_at=started.at if started else None,
            # Told before the outputs have left: who waits for this run need not wait for those.
            **endings.exit_fields(self._exited),
            ready=progress.ready,
            address=self.tools.address(self.spec) if progress.ready else None,
            log_bytes=self.directory.log_size(),
            usage={name: self.usage[name] for name in OBSERVED if name in self.usage} | self.engine.values,
            **self.watch.said,
        )

    def note(self, **changes: Any) -> None:
        """Change the progress, and say so if it is another."""
        progress = replace(self.progress, **changes)
        if progress != self.progress:
            self.progress = progress
            self._changed(self.spec.key)

    def stop(self, grace: float, reason: str, message: str = "") -> None:
        """Write the wish, wake the shim and whoever waits. Blocks for a moment on the disk."""
        if self.result is None:
            self.tools.runtime.stop(self.directory, grace, reason, message)
            self._stopping.set()

    async def run(self) -> None:
        """Carry the run to its end. Never raises but for cancellation: what goes wrong is the run's end."""
        if self.result is not None:
            await self._clear()  # a crash may have come between
            return
        try:
            state = self.tools.runtime.state(self.directory)
            if state.phase == ProcessPhase.ABSENT:
                await self._prepare_and_start()
            await self._attend()
            await self._finalize(self.tools.runtime.state(self.directory))
        except Ended as end:
            await self._end_unstarted(end)
        except OSError as error:
            log.exception("run %s", self.spec.key)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            await self._give_up(f"the disk of the node is full: {error}" if full else f"the agent failed: {error}")
        except Exception as error:
            log.exception("run %s", self.spec.key)
            await self._give_up(f"the agent failed: {error}")
        finally:
            self.tools.release(self)

    # -- prepare ------------------------------------------------------------------------------------------------

    async def _prepare_and_start(self) -> None:
        while self.tools.runtime.state(self.directory).phase == ProcessPhase.ABSENT:
            claim = self.directory.claim()
            if claim is None:
                await asyncio.sleep(_CLAIMED_PERIOD)  # a shim of an earlier agent is about to say that it started
                continue
            try:
                # Again even if an earlier agent has done it: groups, sockets and keys may have gone with the machine.
                looks = preflight.cleared(self.directory, self.spec, self.tools, self._say, self._prepare)
                await self._unless_stopped(looks)
            finally:
                os.close(claim)
            await self._start()

    async def _start(self) -> None:
        shim = self.tools.runtime.start(self.directory)
        if shim.stdout is None:
            raise RuntimeError("the shim was started without a pipe")
        async with readable(shim.stdout.fileno()) as announced:
            await announced.wait()
        said = shim.stdout.read().decode(errors="replace")
        shim.stdout.close()
        self.tools.children.append(shim)
        if said and self.directory.started() is None:
            raise Ended(RunReason.START_FAILED, f"the run's supervisor could not start it: {said}")

    async def _prepare(self) -> None:
        """Everything up to ``launch.json``. May be repeated."""
        preparation = Preparation(self.directory, self.spec, self.tools, self._say)
        python = await preparation.interpreter()
        inputs = {item.channel: await self._retrying(partial(preparation.fetch, item)) for item in self.spec.inputs}
        for output in self.spec.outputs:
            if output.restore or output.lent:
                await self._retrying(partial(preparation.restore, output))
        variables = await self._retrying(preparation.variables)
        self.cpus, self.gpus = self.tools.assign(self.spec)
        prepared = Prepared(python, inputs, self.cpus, self.gpus, variables)
        await self.tools.call(preparation.write_launch, prepared)

    # -- attend -------------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        """Until the process tree has ended."""
        runtime = self.tools.runtime
        descriptor = runtime.watch(self.directory)
        if descriptor is None:
            return
        try:
            self.started = self.directory.started()
            state = self.directory.read("state.json") or {}
            self.note(phase=RunPhase.RUNNING, reason=RunReason.NONE, message="", ready=bool(state.get("ready")))
            if self.started:
                group = runtime.cgroups.group(self.spec.key)
                self.meter = RunMeter(self.started.shim, group, self.gpus, self.directory.metrics)
            duties = [asyncio.create_task(keep(duty, self.spec.key)) for duty in self._duties()]
            async with readable(descriptor) as gone:
                if self.directory.stop():
                    # The wish may have been written before there was a shim to hear it.
                    runtime.wake(self.directory)
                try:
                    await gone.wait()
                finally:
                    self._process_ended.set()
                    self.meter = None
                    for duty in duties:
                        duty.cancel()
                    await asyncio.gather(*duties, return_exceptions=True)
        finally:
            os.close(descriptor)

    def _duties(self) -> list[Duty]:
        duties: list[Duty] = [partial(self._ship, LOG_PERIOD, self.finisher.sync)]
        if self.finisher.checkpoints:
            duties.append(partial(self._ship, CHECKPOINT_PERIOD, self.finisher.sync_checkpoints))
        if self.spec.listen:
            duties.append(self._readiness(self.spec.listen).watch)
            if self.spec.listen.metrics:
                duties.append(partial(self.engine.watch, self.spec.listen.metrics))
        if self.spec.time_limit is not None:
            duties.append(partial(self._limit_time, self.spec.time_limit))
        if self.spec.access.expose:
            duties.append(RunAccess(self.directory, self.spec, self.tools).renew)
        return duties

    def _readiness(self, listen: Listen) -> Readiness:
        return Readiness(
            self.directory,
            listen,
            launch.socket_path(self.tools.home, self.spec.key),
            began=self._began(),
            note=self.note,
            give_up=partial(self.tools.call, self.stop, self.spec.grace, RunReason.NOT_READY),
        )

    def _began(self) -> float:
        return self.started.at if self.started else time.time()

    async def _limit_time(self, limit: float) -> None:
        await asyncio.sleep(max(0.0, self._began() + limit - time.time()))
        await self.tools.call(self.stop, self.spec.grace, RunReason.TIME_LIMIT)

    async def _ship(self, period: float, sync: Callable[[Callable[[], bool]], None]) -> None:
        """What leaves the run while it works; what fails is sent again, and at the latest at the end."""
        while True:
            await asyncio.sleep(period)
            try:
                # Shielded: a thread cannot be cancelled, and the end must not overtake it.
                await asyncio.shield(self.tools.work(sync, self._process_ended.is_set))
            except ModelworksError as error:
                log.warning("run %s: uploading meanwhile: %s", self.spec.key, error.detail)

    def observe_usage(self, seen: Processes) -> bool:
        """Take one sample of a living run; True when those who wait for changes should hear of it."""
        meter = self.meter  # the run may end meanwhile, in another thread
        if meter is None:
            return False
        self.usage = meter.sample(seen, self.tools.gpus) or self.usage
        return self.watch.look(self.usage)

    def watch_memory(self, seen: Processes) -> None:
        """Kill a run that uses more memory than it may: the kernel does where it can, we do elsewhere."""
        meter = self.meter
        said = exceeded(meter, self.spec.resources.memory, seen) if meter and not self._stopping.is_set() else ""
        if said:
            self.stop(0.0, RunReason.OUT_OF_MEMORY, said)

    # -- end ----------------------------------------------------------------------------------------------------

    async def _finalize(self, state: ProcessState) -> None:
        """Outputs, log, result, in this order; waits for the object store as long as it takes."""
        self.started, self._exited = state.started, state.exited
        # What launchers and stacks add behind the words of a rank is longer than what the record keeps.
        runtime, lines = self.tools.runtime, own_words(self.directory.last_lines(4000, 256 * 1024))[-400:]
        if state.exited is None:
            await self.tools.call(runtime.kill, self.directory)
            reason = RunReason.LOST
            message = (
                "the process that held this run is gone (killed, or the machine restarted): how it ended is not known"
            )
        else:
            group = runtime.cgroups.group(self.spec.key)
            killed = out_of_memory(group.peak(), self.spec.resources.memory) if group and group.kills() else None
            reason, message = endings.explain(
                self.spec, state.exited, self.directory.stop(), killed, lines, self.directory.said_at()
            )
        self.note(phase=RunPhase.FINALIZING, ready=False, reason=RunReason.NONE, message="uploading outputs")
        good = endings.whole(state.exited, self.directory.stop(), reason)
        outputs: dict[str, dict[str, Any]] = {}
        await keep(partial(self.tools.call, self.watch.finish), self.spec.key)
        try:
            outputs = await self._retrying(lambda: self.tools.work(self.finisher.finish, good))
        except ModelworksError as error:
            message = f"outputs cannot be uploaded: {error.detail}" + (f"; {message}" if message else "")
            reason = (RunReason.LEASE_EXPIRED if self.lease.over else RunReason.OUTPUT_FAILED) if good else reason
        await self._write_result(state, reason, message, outputs, tuple(lines[-50:]))

    async def _end_unstarted(self, end: Ended) -> None:
        try:
            if end.detail:
                with self.directory.log.open("ab") as file:
                    file.write(end.detail.encode() + b"\n")
            await self.tools.work(self.finisher.ship_log)
        except (ModelworksError, OSError) as error:  # the message says it all; the log is a convenience here
            log.warning("run %s: its log: %s", self.spec.key, error)
        await self._write_result(
            self.tools.runtime.state(self.directory), end.reason, end.message, {}, self.directory.last_lines()
        )

    async def _give_up(self, message: str) -> None:
        """After a defect of ours: never leave a process that nobody attends to."""
        runtime = self.tools.runtime
        descriptor = runtime.watch(self.directory)
        if descriptor is not None:
            with contextlib.suppress(OSError):  # a full disk: it ends after the shim's own grace
                await self.tools.call(runtime.stop, self.directory, 0.0, RunReason.FAILED, message)
            async with readable(descriptor) as gone:
                await gone.wait()
            os.close(descriptor)
        await self._end_unstarted(Ended(RunReason.FAILED, message))

    async def _write_result(
        self,
        state: ProcessState,
        reason: RunReason,
        message: str,
        outputs: dict[str, dict[str, Any]],
        lines: tuple[str, ...],
    ) -> None:
        self.started = state.started
        died_at = self.tools.runtime.died_at(self.directory) if state.exited is None else None
        result = endings.result(self.observation(), state.exited, died_at, reason, message, outputs, lines)
        while True:
            try:
                await self.tools.call(self.directory.write_result, result)
                break
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.note(message=f"the disk of the node is full: waiting to write how the run ended ({error})")
                await asyncio.sleep(_RETRY_FIRST)
        self.result = result
        self._changed(self.spec.key)
        await self._clear()

    async def _clear(self) -> None:
        try:
            await self.tools.call(self.tools.clear, self.directory)
        except OSError as error:  # how the run ended stands; the next agent tries again
            log.warning("run %s: what it left cannot be deleted: %s", self.spec.key, error)

    # -- common -------------------------------------------------------------------------------------------------

    async def _retrying(self, attempt: Callable[[], Any]) -> Any:
        """Repeat while the object store is away, and say so. A stop ends the wait once its grace is over."""
        pause, before = _RETRY_FIRST, self.progress
        while True:
            try:
                value = await attempt()
            except Unavailable as error:
                stop = self.directory.stop()
                if stop and time.time() > stop.at + max(stop.grace, _RETRY_MOST):
                    raise
                self.note(reason=RunReason.STORE_UNREACHABLE, message=f"waiting for the object store: {error.detail}")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _RETRY_MOST)
            else:
                if self.progress.reason == RunReason.STORE_UNREACHABLE:
                    self.note(reason=before.reason, message=before.message)
                return value

    async def _unless_stopped(self, work: Any) -> None:
        """Await ``work``, or give it up when the run is to stop; a download under way fills the cache in peace."""
        self._stop_unstarted(close=work)
        task, stopping = asyncio.ensure_future(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            self._stop_unstarted()
        finally:
            for one in (task, stopping):
                one.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)

    def _stop_unstarted(self, close: Any = None) -> None:
        stop = self.directory.stop() or self.lease.stop()
        if stop is not None:
            if close is not None:
                close.close()
            raise Ended(endings.stop_reason(stop), stop.message or "stopped before it started")

    def _say(self, message: str) -> None:
        """From a worker's thread."""
        self.tools.loop.call_soon_threadsafe(lambda: self.note(message=message))

    def _adopt_launch(self) -> None:
        """Which CPUs, GPUs and cache entries a run of an earlier agent holds."""
        document = self.directory.read("launch.json")
        if document and self.result is None:
            self.cpus = tuple(document["affinity"])
            self.gpus = tuple(gpu for gpu in self.tools.gpus.gpus if gpu.uuid in document["gpus"])
            for key in (self.directory.read("state.json") or {}).get("inputs", []):
                self.tools.cache.hold(key, self.spec.key)
