"""HTTP/1.1 on a Unix socket for a few callers on this machine: small requests with a length, keep-alive, JSON or bytes.

A framework would cost a fifth of the agent's memory for a dozen calls.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from modelworks.kernel.errors import Invalid, ModelworksError, NotFound, TooLarge
from modelworks.runtime import private_socket

_MOST_HEAD = 64 * 1024
_MOST_BODY = 16 << 20
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes

    def text(self, name: str) -> str:
        if name not in self.query:
            raise Invalid(f"the query needs {name}")
        return self.query[name]

    def number(self, name: str, default: float) -> float:
        try:
            value = float(self.query.get(name, default))
        except ValueError:
            raise Invalid(f"the query's {name} is not a number") from None
        if not 0 <= value < 1e15:
            raise Invalid(f"the query's {name} is out of range")
        return value

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise Invalid(f"the body is not JSON: {error}") from None


Handler = Callable[[Request], Awaitable[Any]]
"""Returns what is answered: bytes as they are, everything else as JSON. Raises ModelworksError for problems."""


class HttpServer:
    """Routes by method and path."""

    def __init__(self, routes: Mapping[tuple[str, str], Handler]) -> None:
        self._routes = routes
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, path: Path) -> None:
        """Replace a socket that a dead predecessor left."""
        self._server = await private_socket.serve(path, self._accept, _MOST_HEAD)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # the caller went away, or does not speak HTTP
        except asyncio.CancelledError:
            return  # we close; the transport goes below
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection ends."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, _, rest = head[0].partition(" ")
        url = urlsplit(rest.rpartition(" ")[0])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        length = headers.get("content-length", "0")
        try:
            if not length.isdigit() or int(length) > _MOST_BODY:
                raise TooLarge(f"the body must have a length of at most {_MOST_BODY} bytes")
            body = await reader.readexactly(int(length))
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            status, kind, payload = await self._answer(Request(method, url.path, query, body))
        except TooLarge as error:
            status, kind, payload = _problem(error)
            headers["connection"] = "close"
        keep = headers.get("connection", "").lower() != "close"
        writer.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(payload)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode()
        )
        writer.write(payload)
        await writer.drain()
        return keep

    async def _answer(self, request: Request) -> tuple[int, str, bytes]:
        try:
            handler = self._routes.get((request.method, request.path))
            if handler is None:
                raise NotFound(f"there is no {request.method} {request.path}")
            value = await handler(request)
        except ModelworksError as error:
            return _problem(error)
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            return _problem(ModelworksError(f"the agent failed: {error}"))
        if isinstance(value, bytes):
            return 200, "application/octet-stream", value
        return 200, "application/json", json.dumps(value, separators=(",", ":")).encode()


def _problem(error: ModelworksError) -> tuple[int, str, bytes]:
    return error.status, "application/problem+json", json.dumps(error.problem()).encode()
