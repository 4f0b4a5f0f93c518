"""Sampled requests with their answers, told to the courier as JSON lines: docs/architecture.md, "Captured requests".

Nothing waits for the courier: what it does not take in time is dropped, and counted.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
import uuid
from pathlib import Path

from modelworks.gateway.heads import RequestHead
from modelworks.gateway.table import Route, Sampling

_MOST_UNSENT = 4 * 1024 * 1024
_AGAIN = 1.0
_TYPE, _REQUEST_ID = b"content-type", b"x-request-id"


class Body:
    """The beginning of a body, up to ``most`` bytes."""

    __slots__ = ("_left", "_parts", "cut")

    def __init__(self, most: int) -> None:
        self._left = most
        self._parts: list[bytes] = []
        self.cut = False

    def add(self, data: bytes) -> None:
        if len(data) > self._left:
            self.cut = True
            data = data[: self._left]
        if data:
            self._left -= len(data)
            self._parts.append(bytes(data))

    def document(self, kind: bytes) -> dict[str, object]:
        data = b"".join(self._parts)
        try:
            text, encoding = data.decode(), "utf-8"
        except UnicodeDecodeError:
            text, encoding = base64.b64encode(data).decode(), "base64"
        return {"type": kind.decode("latin-1"), "encoding": encoding, "body": text, "truncated": self.cut}


class Record:
    """One request that was drawn. The exchange adds what passes, and sends it when the answer is whole."""

    __slots__ = ("_answer_type", "_at", "_head", "_route", "_sampling", "answer", "request")

    def __init__(self, route: Route, sampling: Sampling, head: RequestHead, whole: bytes | None) -> None:
        """``whole``: the request as it goes to the replica, if it came in one piece."""
        self._route = route
        self._sampling = sampling
        self._head = head
        self._at = time.time()
        self._answer_type = b""
        self.request = Body(sampling.max_body)
        self.answer = Body(sampling.max_body)
        if whole is not None:
            self.request.add(whole.partition(b"\r\n\r\n")[2])

    def answering(self, lines: list[bytes]) -> None:
        """The answer's headers, four parts each."""
        self._answer_type = _value(lines, _TYPE)

    def line(self, *, status: int, seconds: float, queued: float, replica: str, revision: str) -> bytes:
        head = self._head
        identity = _value(head.lines, _REQUEST_ID).decode("latin-1") or uuid.uuid4().hex
        document = {
            "uri": self._sampling.uri,
            "service": self._route.service,
            "uid": self._route.uid,
            "id": identity,
            "at": round(self._at, 6),
            "method": head.method.decode("latin-1"),
            "path": head.target.decode("latin-1"),
            "status": status,
            "seconds": round(seconds, 6),
            "queue_seconds": round(queued, 6),
            "replica": replica,
            "revision": revision,
            "request": self.request.document(_value(head.lines, _TYPE)),
            "answer": self.answer.document(self._answer_type),
        }
        return json.dumps(document, ensure_ascii=False).encode() + b"\n"


class Capture:
    """The way to the courier of one gateway: a connection that is made when there is something to send."""

    def __init__(self, path: Path | None, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self.sent = self.dropped = 0

    def draw(self, route: Route, head: RequestHead, whole: bytes | None) -> Record | None:
        """A record for this request, by the luck of the draw."""
        sampling = route.capture
        if sampling is None or random.random() * 100 >= sampling.percent:
            return None
        return Record(route, sampling, head, whole)

    def send(self, line: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            self._connect()
            self.dropped += 1
        elif transport.get_write_buffer_size() + len(line) > _MOST_UNSENT:
            self.dropped += 1
        else:
            transport.write(line)
            self.sent += 1

    def ready(self) -> None:
        """Something is going to be sent: connect meanwhile."""
        if self._transport is None or self._transport.is_closing():
            self._connect()

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.close()  # what is written is still sent

    def _connect(self) -> None:
        now = self._loop.time()
        if self._path is None or self._connecting is not None or now < self._not_before:
            return
        self._not_before = now + _AGAIN
        self._connecting = self._loop.create_task(self._open(os.fspath(self._path)))

    async def _open(self, path: str) -> None:
        try:
            transport, _ = await self._loop.create_unix_connection(asyncio.Protocol, path)
            self._transport = transport
        except OSError:
            self._transport = None  # the courier is not there: it is tried again, and what is lost is counted
        finally:
            self._connecting = None


def _value(lines: list[bytes], name: bytes) -> bytes:
    for i in range(0, len(lines), 4):
        if lines[i].lower() == name:
            return lines[i + 2].strip()
    return b""
