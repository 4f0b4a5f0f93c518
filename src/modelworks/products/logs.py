"""The log of a run: from the node while it has the run, from the object store afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from modelworks.kernel.errors import NotFound, Unavailable
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.context import Context
from modelworks.products.mounts import log_uri

# How an agent names the objects of a log: cut at multiples of this, named by their start offset.
_CHUNK = 4 << 20
_PIECE = 256 << 10
# A follower asks again after so long, and less and less often while nothing comes.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.05, 0.5


@dataclass(frozen=True)
class LogPart:
    """One run's place in a log: ``ended`` when nothing will be added to it."""

    key: str
    ended: bool


def read(context: Context, workspace: str, key: str, offset: int, limit: int = _PIECE) -> bytes:
    """Up to ``limit`` bytes of a run's log from ``offset``; empty at its end, or when there is none (yet)."""
    for runtime in tuple(context.runtimes.values()):
        try:
            return runtime.log(key, offset, limit)
        except NotFound:
            continue
        except Unavailable:
            # The node is away: what it shipped so far can be read.
            continue
    start = offset // _CHUNK * _CHUNK
    uri = ObjectUri.parse(f"{log_uri(workspace, key)}{start:016d}.log")
    try:
        return ObjectClient(context.credentials).get(uri)[offset - start :][:limit]
    except NotFound:
        return b""


async def stream(
    context: Context, workspace: str, parts: Callable[[], list[LogPart] | None], offset: int, *, follow: bool
) -> AsyncIterator[bytes]:
    """The bytes from ``offset`` of all parts one after the other.

    ``parts`` tells the runs known by now, the last of which may still be written; None: the resource is gone. With
    ``follow`` it goes on until the last part has ended; offsets count over all parts, so that a client whose
    connection was cut goes on with what it has.
    """
    index, inside, wait, final = 0, 0, _SHORTEST_WAIT, False
    to_skip = offset
    known: list[LogPart] = []
    while True:
        if index >= len(known):
            data = b""
        else:
            data = await run_in_threadpool(read, context, workspace, known[index].key, inside)
        if data:
            inside += len(data)
            wait = _SHORTEST_WAIT
            shown, to_skip = data[to_skip:], max(to_skip - len(data), 0)
            if shown:
                yield shown
            continue
        # Whether it has ended was seen before the read that found nothing: then nothing is left in it.
        if final and index < len(known):
            if index + 1 == len(known):
                return
            index, inside, final = index + 1, 0, known[index + 1].ended
            continue
        fresh = await run_in_threadpool(parts)
        if fresh is None:
            return
        grown, known = len(fresh) > len(known), fresh
        final_now = index < len(known) and (known[index].ended or index + 1 < len(known))
        if final_now or grown:
            final = final_now
            continue
        if not follow:
            return
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, _LONGEST_WAIT)
