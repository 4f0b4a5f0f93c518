"""The relay's process: one TCP port of a node, behind it the replicas' own sockets, for those who know a secret.

It outlives the agent that started it, as replicas do, and needs nothing of it: ``run/relay/<digest of a secret>`` is a
link to the socket of the replica that the secret opens. It ends when there is neither an agent nor a replica. At SIGHUP
it lets go of port and lock, so that another one may begin, and ends with the connections that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

import modelworks
from modelworks import relay
from modelworks.agent import relayport
from modelworks.home import Home
from modelworks.replicasocket import unredirected

_GREETING = 5.0  # seconds until the secret must have come
_MOST_GREETING = 256
_MOST = 8192  # connections
_LOOK, _NAP = 1.0, 0.02
_TAKING_OVER = 5.0  # seconds until the relay before has let go
_LEAVING = 600.0  # seconds for what passes through a relay in whose place there is another
_HIGH_WATER = 256 * 1024  # bytes that one side may be ahead of the other
_RESET = struct.pack("ii", 1, 0)
log = logging.getLogger(__name__)


class End(asyncio.Protocol):
    """One side of a relayed connection. What comes is written to ``peer``, in its pace; so are ends and resets."""

    peer: End | None = None
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        """Half of the connection may end before the other."""
        self.ended = True
        if self.peer is None:
            return False
        if self.peer.ended:
            self.transport.close()
            self.peer.transport.close()
        elif not self.peer.transport.is_closing():
            self.peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        peer, self.peer = self.peer, None
        if peer is None:
            return
        peer.peer = None
        if error is None:
            peer.transport.close()
        else:
            peer.reset()

    def reset(self) -> None:
        """End it so that nobody takes what came for the whole."""
        if not self.transport.is_closing():
            connection = self.transport.get_extra_info("socket")
            if connection is not None and connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


class Caller(End):
    """Who came to the port. Until the secret is right there is no other side."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate
        self._line: bytes | None = b""
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._gate.enter(self):
            self.transport.abort()
            return
        relay.watch(self.transport.get_extra_info("socket"))
        self._timer = asyncio.get_running_loop().call_later(_GREETING, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.transport.write(data)
        elif self._line is None or len(self._line) + len(data) > relay.PREFACE:
            self.transport.abort()  # it did not wait for the answer
        else:
            self._line += data
            if len(self._line) == relay.PREFACE:
                self._greeted(self._line)

    def connection_lost(self, error: Exception | None) -> None:
        self._gate.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        super().connection_lost(error)

    def _greeted(self, line: bytes) -> None:
        self._line = None
        path = self._gate.opened_by(line)
        if path is None:
            self.transport.abort()
            return
        self._gate.greeted(self)
        if self._timer is not None:
            self._timer.cancel()
        self._opening = asyncio.get_running_loop().create_task(self._open(path))

    async def _open(self, path: str) -> None:
        try:
            with unredirected(path) as own:
                await asyncio.get_running_loop().create_unix_connection(lambda: Replica(self), own)
        except OSError:
            self.transport.abort()  # the replica does not listen, or no more
        self._opening = None


class Replica(End):
    """The side of the replica's own socket."""

    def __init__(self, caller: Caller) -> None:
        super().__init__()
        self._caller = caller

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        caller = self._caller
        if caller.transport.is_closing():
            self.transport.abort()
        else:
            self.peer, caller.peer = caller, self
            caller.transport.write(relay.ACCEPTED)


class Gate:
    """Who may pass. ``folder`` holds the links.

    Wrong secrets have no consequence but their own end: nobody guesses 256 bits, and an address that were refused for
    them may be a gateway's too, whose secrets are right.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._greeting: dict[Caller, None] = {}
        self._callers: set[Caller] = set()

    def enter(self, caller: Caller) -> bool:
        """Whether a new caller is heard at all."""
        if len(self._callers) >= _MOST:
            return False
        if len(self._greeting) >= _MOST_GREETING:
            # Whoever has a secret says it at once.
            first = next(iter(self._greeting))
            del self._greeting[first]
            first.transport.abort()
        self._callers.add(caller)
        self._greeting[caller] = None
        return True

    @property
    def passing(self) -> int:
        """How many connections there are."""
        return len(self._callers)

    def greeted(self, caller: Caller) -> None:
        self._greeting.pop(caller, None)

    def leave(self, caller: Caller) -> None:
        self._greeting.pop(caller, None)
        self._callers.discard(caller)

    def opened_by(self, line: bytes) -> str | None:
        """The replica's socket. What is looked up is a digest: the time that takes tells nothing of secrets."""
        digest = relay.claimed(line)
        if digest is None:
            return None
        try:
            return os.readlink(self._folder / digest)
        except OSError:
            return None


def run(home: Home) -> None:
    """Serve; tells ``{port}`` or ``{problem}`` as a line on standard output, which is closed then."""
    _raise_descriptor_limit()
    home.relay_links.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        lock = _locked(home)
        listening = relayport.bound(home)
    except OSError as error:
        _tell({"problem": error.strerror or str(error)})
        return
    port = int(listening.getsockname()[1])
    temporary = home.relay_state.with_suffix(".next")
    temporary.write_text(json.dumps({"pid": os.getpid(), "port": port, "release": modelworks.__version__}))
    temporary.rename(home.relay_state)
    uvloop.run(_serve(home, listening, lock))


def _locked(home: Home) -> int:
    """The lock, for which it waits a little: whose place this one takes may be about to let go of it."""
    lock = os.open(home.relay_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _TAKING_OVER
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BlockingIOError(errno.EAGAIN, "another relay has the node, and does not let go of it") from None
            time.sleep(_NAP)
        else:
            return lock


async def _serve(home: Home, listening: socket.socket, lock: int) -> None:
    loop, told, heard = asyncio.get_running_loop(), asyncio.Event(), set[int]()

    def hear(number: int) -> None:
        heard.add(number)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, hear, number)
    gate, port = Gate(home.relay_links), int(listening.getsockname()[1])
    server = await loop.create_server(lambda: Caller(gate), sock=listening, backlog=1024)
    _tell({"port": port})
    log.info("relay ready: port %d", port)
    while not heard and not await asyncio.to_thread(_needless, home):
        await _look(told)
    server.close()
    if heard == {signal.SIGHUP}:
        told.clear()
        while listening.fileno() >= 0:  # the loop closes it in a turn of its own
            await asyncio.sleep(0)
        os.close(lock)
        log.info("another relay takes over: %d connections stay", gate.passing)
        until = loop.time() + _LEAVING
        while gate.passing and loop.time() < until and heard == {signal.SIGHUP}:
            await _look(told)


async def _look(told: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(told.wait(), _LOOK)


def _needless(home: Home) -> bool:
    """Whether nobody is left who needs a relay: no agent, and no replica that listens."""
    try:
        descriptor = os.open(home.agent / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # the whole home is gone
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    try:
        return not any(_listens(link) for link in home.relay_links.iterdir())
    except FileNotFoundError:
        return True


def _listens(link: Path) -> bool:
    try:
        with unredirected(os.readlink(link)) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_LOOK)
            asking.connect(path)
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def _tell(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _raise_descriptor_limit() -> None:
    """Two descriptors a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * _MOST if hard == resource.RLIM_INFINITY else min(hard, 3 * _MOST)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
