"""Which waiting requests are computed together, and when. Pure: it is told the time and touches nothing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any


class Item:
    """Some rows that wait to be computed, all of one request.

    Items of one ``key`` (their tensors' names, types and shapes but for the first dimension) may share a call of the
    model. ``at`` and ``deadline`` are seconds of one clock; after its deadline nobody wants the answer.
    """

    __slots__ = ("at", "deadline", "gone", "key", "order", "owner", "rows", "taken", "work")

    def __init__(
        self, work: Any, rows: int, key: Hashable, at: float, deadline: float = math.inf, owner: Any = None
    ) -> None:
        self.work = work
        self.rows = rows
        self.key = key
        self.at = at
        self.deadline = deadline
        self.owner = owner
        self.order = 0
        self.taken = False  # by a batch, or because it was late
        self.gone = False


def rows_of(items: Sequence[Item]) -> int:
    return sum(item.rows for item in items)


class _Lane:
    """The items of one key, oldest first."""

    __slots__ = ("due", "items", "rows", "urgent")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.rows = 0
        self.due = 0  # rows of a batch that was due, and that was not taken as a whole
        self.urgent = math.inf

    def add(self, item: Item) -> None:
        self.items.append(item)
        self.rows += item.rows
        self.urgent = min(self.urgent, item.deadline)

    def drop_gone(self) -> bool:
        """Removes cancelled items from the front; whether one is left."""
        while self.items and self.items[0].gone:
            self.items.popleft()
        return bool(self.items)


class Batcher:
    """A queue whose head is never passed over: a batch is the oldest item and what may be computed with it.

    - A batch holds at most ``limit`` rows, in the order of arrival; an item that does not fit ends it.
    - Items of different keys are never in one batch.
    - With a ``delay`` a batch waits so long (s) for more rows, and no longer once it is full or an item's deadline
      would be missed; with 0 it is what waits at this moment.
    - ``limit`` None: every item alone, whatever its rows.
    """

    def __init__(self, limit: int | None = None, delay: float = 0.0) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"a batch holds at least one row, not {limit}")
        self.limit = limit
        self.delay = delay if limit is not None else 0.0
        # How long a batch takes, to be done before a deadline.
        self.expected = 0.0
        self.depth = 0
        self._lanes: dict[Hashable, _Lane] = {}
        self._next = 0

    def put(self, item: Item) -> None:
        item.order = self._next
        self._next += 1
        key = item.key if self.limit is not None else None
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        lane.add(item)
        self.depth += 1

    def discard(self, item: Item) -> None:
        """Take a waiting item out: its caller has gone. One that was taken already stays as it is."""
        if item.gone or item.taken:
            return
        item.gone = True
        item.work = None
        self.depth -= 1
        lane = self._lanes.get(item.key if self.limit is not None else None)
        if lane is not None:
            lane.rows -= item.rows

    def oldest(self) -> float | None:
        """When the item that has waited longest arrived."""
        return min((lane.items[0].at for lane in self._live()), default=None)

    def due(self) -> float | None:
        """From when on :meth:`take` gives a batch: ``-inf`` for at once, None while nothing waits."""
        return min((self._due(lane) for lane in self._live()), default=None)

    def take(self, now: float, lanes: int = 1) -> tuple[list[Item], list[Item]]:
        """The next batch, and the items whose deadline passed before they were computed. Both may be empty.

        With several ``lanes`` what would be one batch is divided among them, and this is the share of the first; the
        others are due at once.
        """
        late: list[Item] = []
        while True:
            lane = self._ready(now)
            if lane is None:
                return [], late
            batch = self._fill(lane, now, late, lanes)
            if batch:
                return batch, late

    def head(self, now: float) -> tuple[Item, int, int] | None:
        """The oldest item of the next batch, the rows that wait with it and fit into one batch, and the items that
        wait; None when nothing is due."""
        lane = self._ready(now)
        if lane is None:
            return None
        first = lane.items[0]
        return first, first.rows if self.limit is None else min(lane.rows, self.limit), len(lane.items)

    def _live(self) -> Iterator[_Lane]:
        for key in [key for key, lane in self._lanes.items() if not lane.drop_gone()]:
            del self._lanes[key]
        return iter(self._lanes.values())

    def _due(self, lane: _Lane) -> float:
        if self.limit is None or self.delay <= 0 or lane.rows >= self.limit or lane.due > 0:
            return -math.inf
        return min(lane.items[0].at + self.delay, lane.urgent - self.expected)

    def _ready(self, now: float) -> _Lane | None:
        lanes = [lane for lane in self._live() if self._due(lane) <= now]
        if len(lanes) < 2:
            return lanes[0] if lanes else None
        return min(lanes, key=lambda lane: lane.items[0].order)

    def _fill(self, lane: _Lane, now: float, late: list[Item], lanes: int) -> list[Item]:
        batch: list[Item] = []
        rows = 0
        items = lane.items
        limit = self.limit
        if limit is not None and lanes > 1:
            due = min(lane.rows, limit)
            limit = -(-due // min(lanes, due)) if due else limit
            lane.due = lane.due or due
        while items:
            item = items[0]
            if not item.gone:
                if item.deadline <= now:
                    late.append(item)
                elif batch and (limit is None or rows + item.rows > limit):
                    break
                else:
                    batch.append(item)
                    rows += item.rows
                item.taken = True
                self.depth -= 1
                lane.rows -= item.rows
            items.popleft()
        lane.due = max(lane.due - rows, 0) if lanes > 1 else 0
        if self.delay > 0:
            lane.urgent = min((item.deadline for item in items if not item.gone), default=math.inf)
        return batch
