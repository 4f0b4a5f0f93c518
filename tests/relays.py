"""A relay in the test's own loop, in front of the replicas of a ``gateway_lab``."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.gateway_lab import Lab, Replica, document

from modelworks import relay
from modelworks.agent.relay import Caller, Gate
from modelworks.cipher import Cipher
from modelworks.gateway.table import Table
from modelworks.relay import Secrets

CIPHER = Cipher(b"k" * 32)


class Relay:
    """``links`` leads from digests to sockets, as an agent writes them."""

    def __init__(self, links: Path) -> None:
        self.links = links
        self.address = ""
        self.accepted = 0
        self.target = ("", 0)
        self.load: Callable[[], Cipher] = lambda: CIPHER  # the gateway's master key

    def admit(self, key: str, socket: Path | str) -> None:
        os.symlink(socket, self.links / relay.digest(relay.secret(CIPHER, key)))

    def dismiss(self, key: str) -> None:
        (self.links / relay.digest(relay.secret(CIPHER, key))).unlink()

    def route(self, lab: Lab, *replicas: Replica, **changes: object) -> None:
        """The lab's replicas, as if they were on the relay's node. May be repeated with others."""
        lab.gateway.secrets = Secrets(lambda: self.load())
        found = document(*(replica.path for replica in replicas), **changes)
        for replica, told in zip(replicas, found["replicas"], strict=True):
            key = f"abcdef/r1/{replica.path.stem}/0"
            with contextlib.suppress(FileExistsError):
                self.admit(key, replica.path)
            told |= {"address": self.address, "run": key}
        lab.gateway.apply(Table.parse([found]))


@contextlib.asynccontextmanager
async def relaying(folder: Path) -> AsyncIterator[Relay]:
    """A relay at 127.0.0.1."""
    one = Relay(folder / "links")
    one.links.mkdir()
    gate = Gate(one.links)

    def made() -> Caller:
        one.accepted += 1
        return Caller(gate)

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    one.target = server.sockets[0].getsockname()
    one.address = f"tcp:127.0.0.1:{one.target[1]}"
    try:
        yield one
    finally:
        server.close()
