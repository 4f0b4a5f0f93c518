"""The gateway's process: inherit the listening sockets, follow the routes, serve, drain on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from functools import partial

import uvloop

from modelworks.cipher import Cipher
from modelworks.gateway.beside import Beside
from modelworks.gateway.capture import Capture
from modelworks.gateway.common import Hub
from modelworks.gateway.control import ControlSocket
from modelworks.gateway.gateway import Gateway
from modelworks.gateway.limits import Limits
from modelworks.gateway.signature import Signatures
from modelworks.gateway.source import Source
from modelworks.gateway.usual import Usual
from modelworks.heap import keep_freed
from modelworks.home import Home
from modelworks.relay import Secrets

LISTEN_FDS = "MW_LISTEN_FDS"
# Which one of several it is (``gateway``, ``gateway-2`` …), and of how many: the supervisor says so.
NAME, COUNT = "MW_GATEWAY", "MW_GATEWAY_COUNT"


def run(home: Home, *, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve until SIGTERM or SIGINT. Sockets come from ``MW_LISTEN_FDS`` (descriptors with commas between), else
    ``host`` and ``port`` are bound here."""
    _raise_descriptor_limit()
    keep_freed()
    listening = listening_sockets(host, port)
    uvloop.run(serve(home, listening))


async def serve(home: Home, listening: list[socket.socket], limits: Limits | None = None) -> None:
    """Everything of the process that lives in its loop."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    gateway = Gateway(home.controller_socket, limits, courier=home.courier_socket, tracking=home.tracking_socket)
    master_key = partial(Cipher.load, home.secrets / "master.key", make=False)
    gateway.signatures, gateway.secrets = Signatures(master_key), Secrets(master_key)
    home.run.mkdir(parents=True, exist_ok=True)
    name = os.environ.get(NAME) or "gateway"
    if name != "gateway" or int(os.environ.get(COUNT) or 1) > 1:
        gateway.hub = Hub(home.gateways_shared)
    else:
        gateway.beside = Beside(home.gateways_shared)
    gateway.capture = Capture(home.capture_socket, loop)
    source = Source(home, gateway.apply)
    gateway.refresh = source.refresh
    source.load_snapshot()
    usual = Usual(home.gateway_snapshot.parent, name, lambda: gateway.services.values())
    usual.load()
    control = ControlSocket(home.gateway_socket.with_name(f"{name}.sock"), gateway, listening)
    await control.start()
    gateway.look_beside()
    for one in listening:
        await gateway.listen(one)
    following = asyncio.create_task(source.follow())
    learning = asyncio.create_task(usual.follow())
    # What exists now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    learning.cancel()
    usual.save()  # now: the successor reads it, and writes it from then on
    # By the routes as they come: those who wait for a replica may be given a new one.
    await gateway.drain(asked=stopping.is_set())
    following.cancel()
    await gateway.close()
    control.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await following


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """The inherited sockets, or one bound to ``host:port``."""
    inherited = os.environ.pop(LISTEN_FDS, "")
    if inherited:
        return [socket.socket(fileno=int(fd)) for fd in inherited.split(",") if fd]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return [socket.create_server((host, port), family=family, backlog=1024)]


def _raise_descriptor_limit() -> None:
    """Two descriptors a request: the soft limit of 1024 would be the first to be met."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
