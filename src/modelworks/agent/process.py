"""The agent's process: ``run(home)`` serves until SIGTERM. Runs live on without it and are found again by the next."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import time

from modelworks.agent.agent import Agent
from modelworks.agent.http import HttpServer
from modelworks.agent.routes import routes
from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed

_HANDOVER = 5.0  # seconds that a predecessor may take to end
log = logging.getLogger(__name__)


def run(home: Home) -> None:
    """Serve on ``home.agent_socket``. Raises SetupFailed when another agent has this home."""
    home.agent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock(home)
    asyncio.run(_serve(home))
    os.close(lock)
    # A download may still run in a thread, and nothing needs its end: every step is repeated from disk.
    logging.shutdown()
    os._exit(0)


async def _serve(home: Home) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    agent = Agent(home)
    await agent.open()
    server = HttpServer(routes(agent))
    await server.listen(home.agent_socket)
    log.info(
        "agent ready: %d runs, isolation %s", len(agent.observe()), "on" if agent.tools.isolation.enabled else "off"
    )
    await stop.wait()
    await server.close()
    await agent.close()


def _lock(home: Home) -> int:
    descriptor = os.open(home.agent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _HANDOVER
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise SetupFailed(f"another agent uses {home.agent}", remedy="stop it with `mw down`") from None
            time.sleep(0.05)
        else:
            return descriptor
