"""Numbers in a log, found as it grows by regular expressions with one group each. Pure.

Lines end with a newline or, as those of progress bars do, with a carriage return. Of a line the first 4 KiB are looked
at. A pattern named ``step`` says of which step those that follow are; without it the n-th match of a name is step n.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from modelworks.kernel.patterns import compile_pattern

LONGEST_LINE = 4096
_ENDS = re.compile(rb"[\r\n]")


class LogScan:
    """``state`` is what must be known to go on later: ``{step, counts}``."""

    def __init__(self, patterns: Mapping[str, str], state: Mapping[str, Any] | None = None) -> None:
        self._patterns = {name: compile_pattern(text) for name, text in patterns.items()}
        self.step: int | None = (state or {}).get("step")
        self.counts: dict[str, int] = dict((state or {}).get("counts", {}))

    @property
    def state(self) -> dict[str, Any]:
        return {"step": self.step, "counts": self.counts}

    def feed(self, data: bytes, now: float) -> list[dict[str, float]]:
        """``data`` is whole lines. The reports in them: one for each line and step."""
        found: list[dict[str, float]] = []
        for line in _ENDS.split(data):
            if line:
                self._look(line[:LONGEST_LINE].decode(errors="replace"), now, found)
        return found

    def _look(self, line: str, now: float, found: list[dict[str, float]]) -> None:
        values = {name: value for name in self._patterns if (value := self._value(name, line)) is not None}
        told = values.pop("step", None)
        if told is not None and told >= 0:
            self.step = int(told)
        if self.step is not None and values:
            found.append({"at": now, "step": self.step, **values})
            return
        for name, value in values.items():
            self.counts[name] = self.counts.get(name, 0) + 1
            found.append({"at": now, "step": self.counts[name], name: value})

    def _value(self, name: str, line: str) -> float | None:
        match = self._patterns[name].search(line)
        try:
            value = float(match.group(1)) if match else math.nan
        except (TypeError, ValueError, IndexError):
            return None
        return value if math.isfinite(value) else None


def whole(data: bytes) -> int:
    """How many of these bytes are whole lines; all of them when one line is longer than 64 KiB."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    return end if end or len(data) < 64 * 1024 else len(data)
