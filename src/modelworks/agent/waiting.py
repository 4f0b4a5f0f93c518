"""Waiting for descriptors, and work that goes on for as long as a run lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

Duty = Callable[[], Awaitable[None]]
_PAUSE = 1.0  # seconds after a failure
log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def readable(descriptor: int) -> AsyncIterator[asyncio.Event]:
    """An event that is set when the descriptor can be read."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        yield event
    finally:
        loop.remove_reader(descriptor)


async def keep(duty: Duty, name: str) -> None:
    """Do ``duty`` to its end; one that fails, such as on a full disk, is begun again."""
    while True:
        try:
            return await duty()
        except Exception:
            log.exception("%s: it is tried again", name)
            await asyncio.sleep(_PAUSE)
