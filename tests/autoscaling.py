"""An autoscaled service on simulated traffic, second by second."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from modelworks.kernel.run import Resources, RunObservation, RunPhase
from modelworks.kernel.traffic import RevisionCounts, Sample, Traffic
from modelworks.products.serving.demand import readings
from modelworks.products.serving.scale import Change, Scaled, State, step
from modelworks.products.serving.scaling_spec import Autoscaling

START = 1_800_000_000.0


@dataclass
class Simulation:
    """A service under requests that come by chance, looked at once a second; replicas take ``startup`` seconds."""

    scaling: Autoscaling
    seconds: float = 0.05  # that an answer takes
    startup: float = 0.0
    seed: int = 0
    now: float = START
    samples: list[Sample] = field(default_factory=list)
    state: State | None = None
    changes: list[tuple[float, Change]] = field(default_factory=list)
    ready_at: list[float] = field(default_factory=list)
    blind: bool = False  # no gateway reports
    another_silent: bool = False  # the requests' gateway reports, and another one does not
    usage: dict[str, float] = field(default_factory=dict)
    last: Scaled | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.arrived = 0
        self.known_since = self.now
        self.known_until = self.heard_until = self.now

    @property
    def ready(self) -> int:
        return sum(at <= self.now for at in self.ready_at)

    @property
    def replicas(self) -> int:
        assert self.state is not None
        return self.state.replicas

    def traffic(self) -> Traffic:
        return Traffic(tuple(self.samples[-400:]), self.known_since, self.known_until, START, self.heard_until)

    def look(self) -> Scaled:
        runs = [
            RunObservation(
                key=f"abcdef/r/{n}/0", phase=RunPhase.RUNNING, created_at=START, ready=True, usage=self.usage
            )
            for n in range(self.ready)
        ]
        current = self.state.replicas if self.state else 0
        metrics = readings(
            self.scaling.metrics, self.traffic(), runs, Resources.parse({"cpu": "2"}), current, self.now,
            tolerance=self.scaling.tolerance, starting=self.ready < current,
        )  # fmt: skip
        before = self.state
        found = step(self.scaling, self.state, metrics, self.traffic(), self.ready, self.now)
        # What is remembered goes through the status.
        self.state = State.of(found.state.document())
        assert self.state == found.state
        if found.change is not None:
            self.changes.append((self.now, found.change))
        assert (found.change is not None) == (before is None or before.replicas != found.state.replicas)
        self.ready_at = sorted(self.ready_at)[: self.replicas]
        self.ready_at += [self.now + self.startup] * (self.replicas - len(self.ready_at))
        self.last = found
        return found

    def run(self, seconds: int, rate: float, held: float | None = None) -> None:
        """So many seconds of requests by chance at ``rate`` a second; ``held``: as many requests as that at once."""
        for _ in range(seconds):
            self.now += 1.0
            if not self.blind:
                self.heard_until = self.now
                self.known_until = self.known_until if self.another_silent else self.now
                count = _poisson(self.random, rate)
                self.arrived += count
                flight = _poisson(self.random, rate * self.seconds) if held is None else int(held)
                counts = RevisionCounts(answered=self.arrived, seconds=self.arrived * self.seconds, in_flight=flight)
                if count or flight or not self.samples or self.samples[-1].demand:
                    queued = 0 if self.ready else flight
                    self.samples.append(Sample(self.now, flight - queued, queued, 0.0, self.arrived, 0, {"r": counts}))
            self.look()

    def counts(self) -> list[int]:
        return [change.after for _, change in self.changes]


def _poisson(source: random.Random, mean: float) -> int:
    if mean > 50:
        return max(round(source.gauss(mean, math.sqrt(mean))), 0)
    limit, count, product = math.exp(-mean), 0, source.random()
    while product > limit:
        count += 1
        product *= source.random()
    return count
