"""How long calls of the model take, learnt from those that were made."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

# A call that takes longer than this does not run on the event loop: health checks and new requests would wait for it.
QUICK = 0.001
_KEYS = 1024
_MOST_BITS = 14


class Estimates:
    """The median of the last calls of like size, by key and by the power of two of their rows."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Hashable, int], deque[float]] = {}
        self._known: dict[tuple[Hashable, int], float] = {}
        self._quick: set[Hashable] = set()

    def add(self, key: Hashable, rows: int, seconds: float) -> None:
        at = (key, rows.bit_length())
        seen = self._seen.get(at)
        if seen is None:
            if len(self._seen) >= _KEYS:  # callers choose the shapes: what is learnt of them must not grow for ever
                self._seen.clear()
                self._known.clear()
                self._quick.clear()
            seen = self._seen[at] = deque(maxlen=9)
        seen.append(seconds)
        known = self._known[at] = sorted(seen)[len(seen) // 2]
        if known <= QUICK:
            self._quick.add(key)

    def get(self, key: Hashable, rows: int) -> float | None:
        """Of calls with about so many rows, else with more; None when none was seen."""
        known, bits = self._known, rows.bit_length()
        found = known.get((key, bits))
        if found is None:
            found = next((known[key, more] for more in range(bits + 1, _MOST_BITS) if (key, more) in known), None)
        return found

    def quick(self, key: Hashable) -> bool:
        """Whether some call of this key was quick; a larger one need not be."""
        return key in self._quick
