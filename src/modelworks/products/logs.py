"""The log of a run: from the node while it has the run, from the object store afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Send

from modelworks.kernel.errors import NotFound, Unavailable
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.context import Context
from modelworks.products.mounts import log_uri

# How an agent names the objects of a log: cut at multiples of these, named by their start offset.
_CHUNKS = {"log": 4 << 20, "reports": 256 << 10, "times": 256 << 10}
_PIECE = 256 << 10
# A follower asks again after so long, and less and less often while nothing comes.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.05, 0.5


@dataclass(frozen=True)
class Parts:
    """The runs whose logs make up one log, in order. The first ``ended`` of them are written no more.

    ``complete``: no other run will follow.
    """

    keys: tuple[str, ...] = ()
    ended: int = 0
    complete: bool = False


def read(context: Context, workspace: str, key: str, offset: int, limit: int = _PIECE, part: str = "log") -> bytes:
    """Up to ``limit`` bytes of a run's log from ``offset``; empty at its end, or when there is none (yet).

    ``part``: as ``runtime.base.Runtime.log`` has it.
    """
    for runtime in context.holders(key):
        try:
            return runtime.log(key, offset, limit) if part == "log" else runtime.log(key, offset, limit, part)
        except NotFound:
            continue
        except Unavailable:
            # The node is away: what it shipped so far can be read.
            continue
    start = offset // _CHUNKS[part] * _CHUNKS[part]
    try:
        return ObjectClient(context.credentials).get_range(
            _object(workspace, key, f"{start:016d}.{part}"), offset - start, min(limit, start + _CHUNKS[part] - offset)
        )
    except NotFound:
        return b""


def stored(context: Context, workspace: str, key: str, name: str) -> bytes:
    """An object that the agent put beside a run's log; empty when there is none (yet)."""
    try:
        return ObjectClient(context.credentials).get(_object(workspace, key, name))
    except NotFound:
        return b""


def _object(workspace: str, key: str, name: str) -> ObjectUri:
    return ObjectUri.parse(f"{log_uri(workspace, key)}{name}")


class LogResponse(StreamingResponse):
    """A log as it comes. What is wrong at the first look is a problem with its words, not an answer that is cut."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks, media_type="text/plain; charset=utf-8")
        self._chunks = chunks

    async def stream_response(self, send: Send) -> None:
        first = await anext(self._chunks, b"")
        self.body_iterator = _after(first, self._chunks)
        await super().stream_response(send)


async def _after(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in chunks:
        yield chunk


async def stream(
    context: Context, workspace: str, parts: Callable[[], Parts | None], offset: int, *, follow: bool
) -> AsyncIterator[bytes]:
    """The bytes from ``offset`` of all parts one after the other; ``parts`` None: the resource is gone.

    With ``follow`` it goes on until the last part has ended; while nothing comes it yields nothing, literally, so that
    who waits for an answer knows that there is one. Offsets count over all parts, so that a client whose
    connection was cut goes on behind what it has.
    """
    known, index, inside, skip, wait = Parts(), 0, 0, offset, _SHORTEST_WAIT
    while True:
        # Asked before the read: of a part that had ended by then, an empty read is the end.
        ended = index < known.ended
        data = b""
        if index < len(known.keys):
            if len(known.keys) == 1:
                inside, skip = inside + skip, 0
            data = await run_in_threadpool(read, context, workspace, known.keys[index], inside)
        if data:
            inside, wait = inside + len(data), _SHORTEST_WAIT
            shown, skip = data[skip:], max(skip - len(data), 0)
            if shown:
                yield shown
            continue
        if ended and index + 1 < len(known.keys):
            index, inside = index + 1, 0
            continue
        latest = await run_in_threadpool(parts)
        if latest is None:
            return
        if latest != known:
            known = latest
            continue
        if not follow or (known.complete and (ended or not known.keys)):
            return
        yield b""
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, _LONGEST_WAIT)
