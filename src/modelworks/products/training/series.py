"""Values that a job reported by step: one series a name across its attempts, and few enough points to draw. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Point = tuple[int, float, float]
"""A step, the value, and when it was reported (Unix seconds)."""


def parse(lines: Iterable[bytes]) -> Iterator[dict[str, float]]:
    """The reports of an agent; a line that is cut short is skipped."""
    for line in lines:
        try:
            document: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict) and "step" in document:
            yield document


@dataclass
class Series:
    """All names of one replica, or ``only`` these. Attempts are added in their order."""

    only: frozenset[str] | None = None
    points: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)

    def add(self, reports: Iterable[dict[str, float]]) -> None:
        """The reports of the next attempt. What earlier ones did from its first step on was lost, and done again."""
        begun = False
        for report in reports:
            step, at = int(report["step"]), float(report.get("at", 0.0))
            if not begun:
                self._drop_from(step)
                begun = True
            for name, value in report.items():
                if name not in ("step", "at") and (self.only is None or name in self.only):
                    self.points.setdefault(name, {})[step] = (float(value), at)

    def of(self, name: str) -> list[Point]:
        """By step."""
        return [(step, value, at) for step, (value, at) in sorted(self.points.get(name, {}).items())]

    def _drop_from(self, step: int) -> None:
        self.points = {
            name: {known: value for known, value in found.items() if known < step}
            for name, found in self.points.items()
        }


def thinned(points: list[Point], most: int) -> list[Point]:
    """At most ``most`` of them, by step, with the first, the last, and the lowest and highest of each stretch: no peak
    is lost."""
    if len(points) <= most:
        return points
    if most < 4:
        return [points[0], points[-1]][:most]
    inner = points[1:-1]
    stretches = (most - 2) // 2
    bounds = [math.floor(n * len(inner) / stretches) for n in range(stretches + 1)]
    chosen = {points[0], points[-1]}
    for begin, end in pairwise(bounds):
        stretch = inner[begin:end]
        chosen.add(min(stretch, key=lambda point: point[1]))
        chosen.add(max(stretch, key=lambda point: point[1]))
    return sorted(chosen)
