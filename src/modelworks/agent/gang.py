"""The replicas of a gang find each other before any of them starts, and start together.

Each listens on the port that its workload will use, and connects to every other: a connection that comes through and
is answered with the gang's seal is a way that will be open for the workload too. Then all wait at rank 0. It says
``go`` once everybody is ready, closes its port when all have taken that in, and by dropping the connections begins.
The side that asks closes first, or the connection is reset: no port is left in TIME_WAIT for the workload.

One line of JSON each way: ``{"version", "rank", "seal", "ready"}`` is answered by ``{"seal"}``; of one that is ready
the connection stays, until ``{"go"}`` and ``{"taken"}`` went over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import importlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from modelworks.agent import reach
from modelworks.agent.prepare import Ended
from modelworks.agent.reach import Failure, Trouble
from modelworks.kernel.run import Peer, Rendezvous, RunReason

_VERSION = 1
_LINE = 4096  # bytes
_TRY = 10.0  # seconds for one connection, or a third of the time there is
_PAUSE_FIRST, _PAUSE_MOST = 0.02, 0.5
_AT_ONCE = 64  # connections under way
_RESET = struct.pack("ii", 1, 0)

Commit = Callable[[], Awaitable[None]]


class Gang:
    """One replica's part. ``say`` tells people what is waited for. Use ``looking`` around everything else."""

    def __init__(self, rendezvous: Rendezvous, say: Callable[[str], None]) -> None:
        self.rendezvous = rendezvous
        self.own = rendezvous.peers[rendezvous.rank]
        self.others = [peer for peer in rendezvous.peers if peer.rank != rendezvous.rank]
        self._say = say
        self._failures: dict[int, Failure] = {}
        self._heard: set[int] = set()
        self._hints = {peer.rank: asyncio.Event() for peer in self.others}
        self._ready: set[int] = set()
        self._taken: set[int] = set()
        self._changed = asyncio.Event()
        self._going = asyncio.Event()
        self._begun = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    # -- every way between two replicas ---------------------------------------------------------------------------

    async def look(self) -> None:
        """Return once every other replica was reached; the port stays open. Raises Ended when the time is over."""
        until = time.monotonic() + self.rendezvous.timeout
        await self._listen(time.monotonic() + min(_TRY, self.rendezvous.timeout / 2))
        limit = asyncio.Semaphore(_AT_ONCE)
        searches = [asyncio.create_task(self._search(peer, until, limit)) for peer in self.others]
        try:
            await asyncio.gather(*searches)
        finally:
            for search in searches:
                search.cancel()
            await asyncio.gather(*searches, return_exceptions=True)
        if self._failures:
            failures = reach.worst(self._failures, frozenset(self._heard))
            raise Ended(RunReason.PREFLIGHT_FAILED, reach.told(self.rendezvous, failures), self._account(failures))

    def _account(self, failures: list[Failure]) -> str:
        """For the log: every peer that was not reached."""
        each = (reach.told(self.rendezvous, [failure]) for failure in failures)
        return "\n".join(f"modelworks: pre-flight: {line}" for line in each)

    async def _search(self, peer: Peer, until: float, limit: asyncio.Semaphore) -> None:
        pause, hint = _PAUSE_FIRST, self._hints[peer.rank]
        while True:
            async with limit:
                left = until - time.monotonic()
                patience = max(0.01, min(_TRY, self.rendezvous.timeout / 3, left))
                failure = await self._try(peer, patience)
            if failure is None:
                self._failures.pop(peer.rank, None)
                return
            self._note(failure)
            left = until - time.monotonic()
            if left <= 0:
                return
            # Who has just reached us listens: it is tried at once.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hint.wait(), min(pause, left))
                hint.clear()
            pause = min(2 * pause, _PAUSE_MOST)

    def _note(self, failure: Failure) -> None:
        """Said at once, but for a peer that may just not have begun."""
        before = self._failures.get(failure.peer.rank)
        if before is not None and before.trouble is failure.trouble:
            longer = max(before.seconds, failure.seconds)
            self._failures[failure.peer.rank] = dataclasses.replace(failure, seconds=longer)
            return
        self._failures[failure.peer.rank] = failure
        if failure.trouble is not Trouble.REFUSED:
            self._say(f"pre-flight, still trying: {reach.told(self.rendezvous, [failure])}")

    async def _try(self, peer: Peer, patience: float) -> Failure | None:
        began = time.monotonic()
        try:
            async with self._asked(peer, patience, ready=False):
                return None
        except _Wrong as wrong:
            return Failure(peer, wrong.trouble, time.monotonic() - began)
        except OSError as error:
            seconds = time.monotonic() - began
            return Failure(peer, reach.trouble_of(error), seconds, reach.system_word(error))

    @contextlib.asynccontextmanager
    async def _asked(
        self, peer: Peer, patience: float, ready: bool
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to ``peer``, which has shown that it is of this gang. Raises OSError and _Wrong."""
        nonce, rank = self.rendezvous.nonce, self.own.rank
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(peer.address, peer.port, limit=_LINE)
        try:
            _keep_alive(writer)
            ask = {"version": _VERSION, "rank": rank, "ready": ready, "seal": reach.seal(nonce, "ask", rank, peer.rank)}
            writer.write(_line(ask))
            try:
                async with asyncio.timeout(patience):
                    line = await reader.readline()
            except TimeoutError:
                raise _Wrong(Trouble.MUTE) from None
            except (ValueError, ConnectionError):
                raise _Wrong(Trouble.STRANGER) from None
            if not reach.is_sealed(_parsed(line).get("seal"), nonce, "answer", rank, peer.rank):
                raise _Wrong(Trouble.STRANGER)
            yield reader, writer
        finally:
            writer.close()

    # -- the port ---------------------------------------------------------------------------------------------------

    async def _listen(self, until: float) -> None:
        while True:
            try:
                listener = _bound(self.own)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise Ended(
                        RunReason.PREFLIGHT_FAILED,
                        f"{reach.own_name(self.own)} cannot listen on port {self.own.port}: {reach.system_word(error)}",
                    ) from None
                if time.monotonic() > until:
                    program = await asyncio.to_thread(_holder, self.own.port)
                    raise Ended(RunReason.PREFLIGHT_FAILED, reach.port_taken(self.own, program)) from None
                await asyncio.sleep(_PAUSE_MOST)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=_LINE, backlog=1024)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        try:
            await self._answer(reader, writer)
        except (OSError, ValueError, asyncio.CancelledError):
            return  # it went away, is no replica, or we close
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_TRY):
            ask = _parsed(await reader.readline())
        rank, nonce = ask.get("rank"), self.rendezvous.nonce
        if not isinstance(rank, int) or rank not in self._hints:
            return
        if not reach.is_sealed(ask.get("seal"), nonce, "ask", rank, self.own.rank):
            return
        self._heard.add(rank)
        self._hints[rank].set()
        writer.write(_line({"seal": reach.seal(nonce, "answer", rank, self.own.rank)}))
        if ask.get("ready") is True:
            await self._hold(rank, reader, writer)
        else:
            await reader.read(1)  # it closes, so that nothing of this port is left

    # -- starting together --------------------------------------------------------------------------------------------

    async def begin(self, commit: Commit) -> None:
        """Return when every replica is ready and knows that all are; the port is free then.

        ``commit`` writes down that this one will start, before anybody is told so. Raises Ended.
        """
        if self.own.rank == 0:
            await self._lead(commit)
        else:
            await self._follow(commit)

    async def _lead(self, commit: Commit) -> None:
        everybody = {peer.rank for peer in self.others}
        while missing := sorted(everybody - self._ready):
            self._say(reach.waiting(self.rendezvous, missing))
            await self._next_change()
        await self._committed(commit)
        self._going.set()
        try:
            async with asyncio.timeout(self.rendezvous.timeout):
                while everybody - self._taken:
                    await self._next_change()
        except TimeoutError:
            missing = sorted(everybody - self._taken)
            said = f"{reach.own_name(self.own)} lost {reach.ranks(missing)} when all were about to begin"
            raise Ended(RunReason.PREFLIGHT_FAILED, said) from None
        await self.close()

    async def _committed(self, commit: Commit) -> None:
        try:
            await commit()
        except OSError as error:
            said = f"{reach.own_name(self.own)} cannot write to its disk: {reach.system_word(error)}"
            raise Ended(RunReason.PREFLIGHT_FAILED, said) from error

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _hold(self, rank: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The connection of a replica that is ready, until it may begin. Only rank 0 is asked for this."""
        self._ready.add(rank)
        self._changed.set()
        word, going = asyncio.create_task(reader.readline()), asyncio.create_task(self._going.wait())
        try:
            await asyncio.wait({word, going}, return_when=asyncio.FIRST_COMPLETED)
            if not self._going.is_set():
                return  # it went away; it comes again, or its run ends
            writer.write(_line({"go": reach.seal(self.rendezvous.nonce, "go", rank, 0)}))
            if reach.is_sealed(_parsed(await word).get("taken"), self.rendezvous.nonce, "taken", rank, 0):
                self._taken.add(rank)
                self._changed.set()
                await self._begun.wait()
        finally:
            self._ready.discard(rank)
            for task in (word, going):
                task.cancel()
            await asyncio.gather(word, going, return_exceptions=True)

    async def _follow(self, commit: Commit) -> None:
        leader, patience = self.rendezvous.peers[0], self.rendezvous.timeout
        self._say("ready; waits for the others")
        last, pause = time.monotonic(), _PAUSE_FIRST
        while True:
            with contextlib.suppress(OSError, ValueError, _Wrong):
                async with contextlib.AsyncExitStack() as stack:
                    asked = self._asked(leader, min(_TRY, patience), ready=True)
                    reader, writer = await stack.enter_async_context(asked)
                    last, pause = time.monotonic(), _PAUSE_FIRST
                    word = _parsed(await reader.readline()).get("go")
                    last = time.monotonic()
                    if reach.is_sealed(word, self.rendezvous.nonce, "go", self.own.rank, 0):
                        await self._committed(commit)
                        writer.write(_line({"taken": reach.seal(self.rendezvous.nonce, "taken", self.own.rank, 0)}))
                        with contextlib.suppress(OSError):
                            await reader.read(1)  # until rank 0 has closed its port and lets go of us
                        return
            if time.monotonic() - last > patience:
                said = f"rank 0 (node {leader.node}) at {reach.place(leader)} answers no more: it was there before"
                raise Ended(RunReason.PREFLIGHT_FAILED, f"{reach.own_name(self.own)}: {said}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MOST)

    async def close(self) -> None:
        """The port first, then the connections: who sees its own end finds nobody listening any more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._begun.set()
        handlers = list(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


class _Wrong(Exception):
    """Who answered is not of the gang."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


def _bound(own: Peer) -> socket.socket:
    """A socket on the port at every address, as the workload will have it; on loopback, it listens there alone."""
    family = socket.AF_INET6 if ":" in own.address else socket.AF_INET
    everywhere = _open(family, "::" if family == socket.AF_INET6 else "0.0.0.0", own.port)
    if not own.address.startswith("127.") and own.address != "::1":
        return everywhere
    everywhere.close()
    return _open(family, own.address, own.port)


def _open(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except BaseException:
        listener.close()
        raise
    return listener


def _holder(port: int) -> str:
    """Who listens on the port, such as ``python3 (process 4711)``; nothing where that is not told."""
    psutil = importlib.import_module("psutil")  # of use here alone, and rarely
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """A machine that is gone is noticed within twenty seconds."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
