"""The main job from nothing: ``mw quickstart`` on a fresh home, the package installed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from tests.bench.harness import Entry, Figure, mw, platform_home

INSTALLED = Figure("quickstart.installed_s", "s", 25, "lower")
FIGURES = (INSTALLED,)
_ROUNDS = 3


def run() -> Sequence[Entry]:
    seconds: list[float] = []
    result: dict[str, object] = {}
    for _ in range(_ROUNDS):
        with platform_home() as home:
            start = time.monotonic()
            done = mw(home, "quickstart", "--json")
            seconds.append(time.monotonic() - start)
            result = json.loads(done.stdout.strip().splitlines()[-1])
    return [INSTALLED.medians(seconds, accuracy=result.get("accuracy"), p50_ms=result.get("p50_ms"))]
