"""A gateway, a replica and a client of raw bytes in one loop: what the gateway's integration tests stand on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from modelworks.gateway.gateway import Gateway
from modelworks.gateway.limits import Limits
from modelworks.gateway.table import Table

TOKEN = "a-token"
AUTH = f"Authorization: Bearer {TOKEN}\r\n"
QUICK = Limits(
    head_timeout=0.4,
    idle_timeout=1.0,
    stall_timeout=0.5,
    linger=0.3,
    drain=3.0,
    drain_idle=0.2,
    sweep=0.05,
    routes_wait=5.0,
    connections=100,
)
Handler = Callable[["Replica", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def document(*sockets: Path | str, service: str = "digits", **changes: Any) -> dict[str, Any]:
    """A route with a replica at each socket."""
    return {
        "service": service,
        "uid": f"uid-{service}",
        "state": "ready",
        "message": "",
        "token_sha256": [hashlib.sha256(TOKEN.encode()).hexdigest()],
        "replicas": [{"id": f"{i}-0", "address": f"unix:{s}", "revision": "r1"} for i, s in enumerate(sockets)],
        "concurrency": 4,
        "queue_size": 2,
        "queue_timeout": 5.0,
        "keepalive": 5.0,
        "max_body": 1_000_000,
        **changes,
    }


class Replica:
    """A server on a Unix socket that records what reaches it; ``handler`` runs for each connection."""

    def __init__(self, path: Path, handler: Handler | None = None) -> None:
        self.path = path
        self.handler = handler or echo
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.closed = 0
        self.changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()
        self.path.unlink(missing_ok=True)

    def drop(self) -> None:
        """Cut every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        self.changed.set()
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self.handler(self, reader, writer)
        finally:
            self.closed += 1
            self._writers.discard(writer)
            writer.close()
            self.changed.set()

    async def read_head(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        self.changed.set()
        return head

    async def read_body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        body = await read_body(reader, head)
        self.bodies.append(body)
        self.changed.set()
        return body


async def echo(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with its body."""
    while True:
        head = await replica.read_head(reader)
        body = await replica.read_body(reader, head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()


def header(head: bytes, name: str) -> str | None:
    """The first value of a header."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.decode("latin-1").lower() == name.lower():
            return value.decode("latin-1").strip()
    return None


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """A body by its length or its chunks; nothing without either."""
    if (header(head, "transfer-encoding") or "").lower() == "chunked":
        body = b""
        while True:
            size = int(await reader.readuntil(b"\r\n"), 16)
            data = await reader.readexactly(size + 2)
            if not size:
                return body
            body += data[:-2]
    return await reader.readexactly(int(header(head, "content-length") or 0))


class Client:
    """Raw bytes to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)
        await self.writer.drain()

    async def head(self) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head, body."""
        head = await self.head()
        async with asyncio.timeout(5):
            return int(head[9:12]), head, await read_body(self.reader, head)

    async def post(
        self, body: bytes = b"x", path: str = "/api/predict/digits", extra: str = AUTH
    ) -> tuple[int, bytes, bytes]:
        await self.send(request(body, path, extra))
        return await self.answer()

    async def closed(self) -> bytes:
        """What comes until the gateway closes."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
            return b""

    def close(self) -> None:
        self.writer.close()


def request(body: bytes = b"x", path: str = "/api/predict/digits", extra: str = AUTH) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: h\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Lab:
    """A listening gateway; replicas and clients are made as a test needs them, and end with it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.gateway = Gateway(folder / "controller.sock", limits, courier=folder / "courier.sock")
        self.port = 0
        self._replicas: list[Replica] = []
        self._clients: list[Client] = []

    async def replica(self, handler: Handler | None = None, name: str | None = None) -> Replica:
        replica = Replica(self.folder / (name or f"{len(self._replicas)}.sock"), handler)
        await replica.start()
        self._replicas.append(replica)
        return replica

    def route(self, *replicas: Replica, **changes: Any) -> None:
        self.gateway.apply(Table.parse([document(*(r.path for r in replicas), **changes)]))

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        await self.gateway.close()
        for replica in self._replicas:
            await replica.stop()


@contextlib.asynccontextmanager
async def lab(folder: Path, limits: Limits = QUICK) -> AsyncIterator[Lab]:
    one = Lab(folder, limits)
    listening = socket.create_server(("127.0.0.1", 0))
    try:
        one.port = listening.getsockname()[1]
        await one.gateway.listen(listening)
        yield one
    finally:
        await one.stop()
        listening.close()
