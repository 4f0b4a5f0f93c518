"""Who waits for a task to change: told at once of what this courier wrote, and within a moment of the others' word."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from modelworks.courier.database import Away, Link
from modelworks.db import tasks as sql

_LOOK = 0.5


@dataclass(eq=False)
class _Waiter:
    """Who waits, and the state and attempts that it knows of."""

    known: tuple[str, int]
    event: asyncio.Event


class Waiting:
    """Waiters by task."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiters: dict[str, list[_Waiter]] = {}
        self._some = asyncio.Event()

    async def change(self, id: str, known: tuple[str, int], timeout: float) -> None:
        """Until the task's state and attempts are others than ``known``, or may be, or time is up."""
        waiter = _Waiter(known, asyncio.Event())
        self._waiters.setdefault(id, []).append(waiter)
        self._some.set()
        try:
            async with asyncio.timeout(timeout):
                await waiter.event.wait()
        except TimeoutError:
            return
        finally:
            left = self._waiters[id]
            left.remove(waiter)
            if not left:
                del self._waiters[id]

    def tell(self, ids: Iterable[str]) -> None:
        for id in ids:
            for waiter in self._waiters.get(id, ()):
                waiter.event.set()

    async def run(self) -> None:
        """Look for what others have written, while somebody waits."""
        while True:
            if not self._waiters:
                self._some.clear()
                await self._some.wait()
            await asyncio.sleep(_LOOK)
            with contextlib.suppress(Away):
                await self._look()

    async def _look(self) -> None:
        ids = list(self._waiters)
        rows = await self._link.run(lambda connection: _states(connection, ids))
        now = {id: (state, attempts) for id, state, attempts in rows}
        for id in ids:
            for waiter in self._waiters.get(id, ()):
                # What is not there any more has changed, too.
                if now.get(id) != waiter.known:
                    waiter.event.set()


async def _states(connection: object, ids: list[str]) -> list[tuple[str, str, int]]:
    cursor = await connection.execute(sql.STATES, (ids,))  # type: ignore[attr-defined]
    return list(await cursor.fetchall())
