"""Latency and throughput of the variants, in interleaved rounds: a machine that drifts favours none."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from modelworks.compile.data import Samples
from modelworks.compile.engines import Runner

ROUNDS = 7
_SLICE, _WARM = 0.12, 0.04  # seconds of a round's measurement, and before it
_LEAST = 3  # calls in a round, however long they take


@dataclass(frozen=True)
class Timing:
    """Of one variant at one batch size: milliseconds a call, rows a second (the median of the rounds)."""

    variant: str
    batch: int
    p50_ms: float
    p99_ms: float
    throughput: float


def measure(runners: Sequence[Runner], samples: Samples, batches: Iterable[int], rounds: int = ROUNDS) -> list[Timing]:
    """Every variant at every batch size."""
    found = []
    for batch in batches:
        feeds = samples.batch(batch)
        seconds: dict[str, list[float]] = {one.name: [] for one in runners}
        rates: dict[str, list[float]] = {one.name: [] for one in runners}
        for number in range(rounds):
            for runner in runners if number % 2 == 0 else reversed(runners):
                # The threads of whoever ran before still spin for a while: what is called then does not count.
                _calls(runner, feeds, _WARM, 1)
                taken = _calls(runner, feeds, _SLICE, _LEAST)
                seconds[runner.name] += taken
                rates[runner.name].append(batch * len(taken) / sum(taken))
        for runner in runners:
            p50, p99 = (1000 * float(np.percentile(seconds[runner.name], share)) for share in (50, 99))
            rate = float(np.median(rates[runner.name]))
            found.append(Timing(runner.name, batch, round(p50, 3), round(p99, 3), round(rate, 2)))
    return found


def best(timings: Iterable[Timing], variant: str) -> Timing:
    """A variant's batch size of the highest throughput."""
    return max((one for one in timings if one.variant == variant), key=lambda one: one.throughput)


def _calls(runner: Runner, feeds: object, duration: float, least: int) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + duration
    while len(taken) < least or time.perf_counter() < end:
        before = time.perf_counter()
        runner.call(feeds)  # type: ignore[arg-type]
        taken.append(time.perf_counter() - before)
    return taken
