"""The supervisor: one thread and one selector over its children's ends, their answers, and signals."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.supervisor import logs, policy, publicsocket
from modelworks.supervisor.ask import Ask
from modelworks.supervisor.child import ASK_EVERY, ASK_TIMEOUT, Child
from modelworks.supervisor.client import write_client
from modelworks.supervisor.doorbell import Doorbell
from modelworks.supervisor.handover import Handovers
from modelworks.supervisor.launch import start
from modelworks.supervisor.policy import Phase
from modelworks.supervisor.preparation import PUBLIC, Addresses, Preparation, Program, Wish
from modelworks.supervisor.procfs import Identity, boot_id
from modelworks.supervisor.report import Endpoint, Report
from modelworks.supervisor.shutdown import remove_sockets, stop_everything, stop_processes
from modelworks.supervisor.signals import caught
from modelworks.supervisor.state import Ports, Stage, State, take_grace
from modelworks.supervisor.unit import Unit

_ROTATE_EVERY = 30.0


class Supervisor:
    """Owns the platform of one home from `up` to `down`. The caller holds the home's lock."""

    def __init__(self, home: Home, wish: Wish, program: Program, report: Report, grace: float) -> None:
        self._home, self._wish, self._program, self._report, self._grace = home, wish, program, report, grace
        self._selector = selectors.DefaultSelector()
        self._children: dict[str, Child] = {}
        self._listening: list[socket.socket] = []
        self._doorbells: dict[str, Doorbell] = {}
        self._handovers = Handovers(home, self._watch, self._selector.unregister, report.line, self._save)
        self._preparation: Preparation | None = None
        self._addresses: Addresses | None = None
        self._state = State(Stage.STARTING, boot_id(), Identity.of(os.getpid()))
        self._began = time.monotonic()
        self._rotate_at = self._began + _ROTATE_EVERY
        self._stop_wanted = False
        self._state_unsaved = False

    def run(self) -> int:
        """Start everything, keep it, stop it on SIGTERM or SIGINT. The exit code: 0, or 1 when it could not start."""
        with caught(self._want_stop, self._watch):
            try:
                self._adopt()
                self._prepare()
                while not self._stop_wanted:
                    self._turn()
            except SetupFailed as error:
                self._abandon()
                self._report.failed(error)
                return 1
            self._stop()
        return 0

    # -- beginning ---------------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Take over what an earlier supervisor left alive."""
        previous = State.load(self._home)
        self._state = replace(self._state, ports=previous.ports, url=previous.url, s3_url=previous.s3_url)
        now = time.monotonic()
        for name, process in previous.processes.items():
            identity = process.identity
            pidfd = identity.pidfd() if identity else None
            if identity is None or pidfd is None:
                continue
            if process.unit.step:  # begun for a supervisor that is gone: it is done again
                os.close(pidfd)
                stop_processes([process], self._report.line)
                continue
            child = self._children[name] = Child(process.unit, starts=process.restarts, last_exit=process.last_exit)
            child.running(identity, pidfd, now, None)
            child.since = process.since
            self._watch(pidfd, partial(self._ended, child))
            self._report.line(f"{name} is still running (pid {identity.pid}): taken over")
        for process in previous.draining:
            self._handovers.adopt(process)
        for child in [child for child in self._children.values() if child.unit.on_demand]:
            self._dismiss(child)  # its socket went with the supervisor that listened at it
        gateways = [child for child in self._children.values() if child.unit.listens]
        if not any(self._take_back_socket(gateway) for gateway in gateways):
            for gateway in gateways:
                # Without its socket it would answer where the next gateway cannot be reached.
                self._dismiss(gateway)
        self._save()

    def _take_back_socket(self, gateway: Child) -> bool:
        try:
            self._listening = publicsocket.take_back(f"{self._home.run}/{gateway.unit.name}.sock")
        except OSError as error:
            self._report.line(f"{gateway.unit.name} does not hand its socket over ({error})")
            return False
        return True

    def _dismiss(self, child: Child) -> None:
        self._report.line(f"{child.unit.name} is started again")
        self._handovers.withdraw(child)
        stop_processes([child.record(Phase.STARTING)], self._report.line)
        del self._children[child.unit.name]
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)

    def _prepare(self) -> None:
        """Begin the child that reads the settings and makes the engines ready to start."""
        known, wish = self._state.ports, self._wish
        if known and self._listening:
            wish = replace(wish, host=known.host, port=known.port)
        if known and "weed" in self._children:
            wish = replace(wish, s3_port=known.s3_port)
        self._preparation = Preparation(self._home, self._program.prepare, wish, known, tuple(self._children))
        self._watch(self._preparation.fileno(), self._prepared)
        self._save()

    def _prepared(self) -> None:
        """Take what the preparation says. Raises SetupFailed when it failed."""
        assert self._preparation is not None
        for message in self._preparation.read():
            self._take(message)
        if self._preparation.ended:
            preparation, self._preparation = self._preparation, None
            self._selector.unregister(preparation.fileno())
            preparation.finish()
            self._save()

    def _take(self, message: dict[str, Any]) -> None:
        if "line" in message:
            self._report.line(message["line"])
        elif "addresses" in message:
            self._addresses = Addresses(**message["addresses"])
            self._open_doors(self._addresses)
        elif "unit" in message:
            unit = self._placed(Unit.decode(message["unit"]))
            known = self._children.get(unit.name)
            if known is not None and unit.listens and known.unit.env != unit.env:
                self._dismiss(known)  # it was one of another number of gateways, and would not share with these
                known = None
            if known is None:
                self._children[unit.name] = child = Child(unit)
                if unit.on_demand is not None:
                    self._doorbells[unit.name] = Doorbell(unit.on_demand)
                    self._await_demand(child)

    def _placed(self, unit: Unit) -> Unit:
        """``unit`` with the public address in its questions."""
        assert self._addresses is not None
        assert self._state.ports is not None
        public = f"tcp:{self._addresses.shown_host}:{self._state.ports.port}"
        asked = tuple(replace(q, address=public) if q.address == PUBLIC else q for q in unit.questions)
        return replace(unit, questions=asked)

    def _open_doors(self, addresses: Addresses) -> None:
        if not self._listening:
            self._listening = publicsocket.bind(addresses.host, addresses.port)
        port = self._listening[0].getsockname()[1]
        self._state = replace(
            self._state,
            ports=Ports(addresses.host, port, addresses.s3_port),
            url=addresses.advertise_url or f"http://{addresses.shown_host}:{port}",
            s3_url=addresses.s3_url,
        )
        os.environ |= {"MW_HOST": addresses.host, "MW_PORT": str(port), "MW_S3_PORT": str(addresses.s3_port)}
        self._save()

    # -- one turn of the loop ----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        self._handovers.turn(self._children.values(), now)
        plan = policy.plan(self._needs(), self._seen(), now)
        for name in plan.start:
            self._start(self._children[name])
        wakes = [self._rotate_at, *([plan.wake_at] if plan.wake_at is not None else [])]
        for child in self._children.values():
            if child.seen.running and not child.seen.ready_since and not child.unit.step:
                wakes.append(self._ask(child))
        if self._state.stage is Stage.STARTING:
            self._check_start(now)
            wakes.append(self._began + policy.STARTUP_TIMEOUT)
        if now >= self._rotate_at:
            self._rotate_at = now + _ROTATE_EVERY
            self._tidy()
        timeout = max(0.0, min(wakes) - time.monotonic())
        for key, _ in self._selector.select(timeout):
            if self._selector.get_map().get(key.fd) is key:  # one of those before it may have changed that
                callback: Callable[[], None] = key.data
                callback()

    def _start(self, child: Child) -> None:
        unit = child.unit
        inherited = [one.fileno() for one in self._listening] if unit.listens else []
        if unit.name in self._doorbells:
            inherited = [self._doorbells[unit.name].fileno()]
        now = time.monotonic()
        try:
            started = start(self._home, unit, inherited)
        except OSError as error:
            child.ended(now)
            child.last_exit = f"cannot be started: {error}"
            self._report.line(f"{unit.name} {child.last_exit}")
            if unit.on_demand is not None:
                self._await_demand(child)
            return
        pidfd = os.pidfd_open(started.identity.pid)  # our own child: its number is its own until we reap it
        child.running(started.identity, pidfd, now, started.popen)
        self._watch(pidfd, partial(self._ended, child))
        self._save()  # written down before it does anything
        with contextlib.suppress(BrokenPipeError):  # it was killed at once: its end is reported by its pidfd
            started.release()

    def _await_demand(self, child: Child) -> None:
        """Start it when somebody connects. Who waited for one that failed is turned away, and may ask again."""
        doorbell = self._doorbells[child.unit.name]
        if child.seen.failures:
            doorbell.turn_away()
        self._watch(doorbell.fileno(), partial(self._demanded, child))

    def _demanded(self, child: Child) -> None:
        self._selector.unregister(self._doorbells[child.unit.name].fileno())
        child.seen = replace(child.seen, wanted=True)

    def _ask(self, child: Child) -> float:
        """Put the next question when it is due. Returns when to look again."""
        now = time.monotonic()
        if child.ask is not None:
            if now - child.asked_at < ASK_TIMEOUT:
                return child.asked_at + ASK_TIMEOUT
            self._drop_ask(child)
        if child.answered >= len(child.unit.questions):
            if not child.unit.listens or self._handovers.stand_by(child):
                self._became_ready(child)
                return now
            child.answered, child.asked_at = 0, now  # others have answered in its place
        if now - child.asked_at < ASK_EVERY:
            return child.asked_at + ASK_EVERY
        child.asked_at = now
        with contextlib.suppress(OSError):  # nobody listens yet
            child.ask = Ask(child.unit.questions[child.answered])
            self._watch(child.ask.fileno(), partial(self._answered, child))
        return now + ASK_EVERY

    def _answered(self, child: Child) -> None:
        verdict = child.ask.answer() if child.ask else False
        if verdict is None:
            return
        self._drop_ask(child)
        if verdict:
            child.answered += 1
            child.asked_at = 0.0

    def _drop_ask(self, child: Child) -> None:
        if child.ask is not None:
            self._selector.unregister(child.ask.fileno())
            child.ask.close()
            child.ask = None

    def _became_ready(self, child: Child) -> None:
        now = time.monotonic()
        child.ready(now)
        self._save()
        pid = child.identity.pid if child.identity else 0
        self._report.line(f"{child.unit.name} ready (pid {pid}, {now - child.began:.1f} s)")

    def _ended(self, child: Child) -> None:
        assert child.pidfd is not None
        self._selector.unregister(child.pidfd)
        self._drop_ask(child)
        self._handovers.withdraw(child)
        child.draining = False
        took = time.monotonic() - child.began
        done = child.ended(time.monotonic())
        self._save()
        if child.unit.on_demand is not None:
            self._await_demand(child)
            self._report.line(f"{child.unit.name}: {child.last_exit}; it starts when it is asked for")
        elif done:
            self._report.line(f"{child.unit.name} done ({took:.1f} s)")
        else:
            wait = policy.delay(child.seen.failures)
            when = f"in {wait:.1f} s" if wait else "now"
            self._report.line(f"{child.unit.name}: {child.last_exit}; it starts again {when}")

    def _check_start(self, now: float) -> None:
        gave_up = policy.give_up(self._needs(), self._seen(), self._began, now)
        if gave_up is not None:
            raise logs.failure(self._home, gave_up.name, gave_up.reason, self._children[gave_up.name].last_exit)
        if self._preparation is not None or not policy.all_usable(self._needs(), self._seen()):
            return
        self._state = replace(self._state, stage=Stage.UP)
        write_client(self._home, self._state)
        self._save()
        age = round(time.monotonic() - self._began, 2)
        self._report.ready(Endpoint(self._state.url, self._state.s3_url, str(self._home.root), age))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._report.line("stopping")
        self._state = replace(self._state, stage=Stage.STOPPING)
        self._end_preparation()
        self._withdraw()
        self._save()
        granted = take_grace(self._home)
        grace = self._grace if granted is None else granted
        stop_everything(self._home, self._snapshot(), self._program.sweep, grace, self._report.line)
        self._reap()
        self._children, self._state = {}, State(ports=self._state.ports)
        self._handovers.children.clear()
        self._save()
        self._report.line("Modelworks is down")

    def _abandon(self) -> None:
        """The start failed: end what this supervisor began. What it found running goes on."""
        self._end_preparation()
        self._withdraw()
        begun = (*self._children.values(), *self._handovers.children)
        mine = [child for child in begun if child.identity and not child.adopted]
        stop_processes([child.record(Phase.STARTING) for child in reversed(mine)], self._report.line)
        left = {name: child for name, child in self._children.items() if child.adopted}
        self._reap()
        if not left:
            remove_sockets(self._home, self._snapshot().processes.values())
        self._children = left
        self._state = replace(self._state, supervisor=None, stage=Stage.STOPPING if left else Stage.DOWN)
        self._save()

    def _end_preparation(self) -> None:
        if self._preparation is not None:
            self._selector.unregister(self._preparation.fileno())
            self._preparation.kill()
            self._preparation = None

    def _withdraw(self) -> None:
        """Nobody gets a successor any more."""
        for child in (*self._children.values(), *self._handovers.children):
            self._handovers.withdraw(child)

    def _reap(self) -> None:
        for child in (*self._children.values(), *self._handovers.children):
            if child.popen is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):  # unkillable (in the kernel): init reaps it
                    child.popen.wait(1.0)

    # -- small things ------------------------------------------------------------------------------------------------

    def _needs(self) -> dict[str, policy.Need]:
        return {name: child.unit.need for name, child in self._children.items()}

    def _seen(self) -> dict[str, policy.Seen]:
        return {name: child.seen for name, child in self._children.items()}

    def _snapshot(self) -> State:
        seen = self._seen()
        processes = {
            name: child.record(policy.phase(child.unit.need, child.seen, seen))
            for name, child in self._children.items()
        }
        if self._preparation is not None:
            processes[self._preparation.unit.name] = self._preparation.record()
        return replace(self._state, processes=processes, draining=self._handovers.records())

    def _save(self) -> None:
        try:
            self._snapshot().save(self._home)
            self._state_unsaved = False
        except OSError as error:
            # A full disk must not end what runs; it is written again with the next tidying.
            self._state_unsaved = True
            self._report.line(f"cannot write {self._home.supervisor_state}: {error}")

    def _tidy(self) -> None:
        if self._state_unsaved:
            self._save()
        for name in (*self._children, "supervisor"):
            try:
                logs.rotate(logs.path_of(self._home, name))
            except OSError as error:
                self._report.line(f"cannot rotate the log of {name}: {error}")

    def _watch(self, fd: int, callback: Callable[[], object]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def _want_stop(self, number: int, frame: object) -> None:
        self._stop_wanted = True
