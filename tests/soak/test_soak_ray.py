"""A gang on a Ray cluster whose nodes are cut off, lose their raylets, or lose the head, again and again.

Never two of its attempts are at work at once, it resumes from its checkpoints, and has the losses and the weights of a
run that nobody disturbed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests import agents
from tests.e2e import test_ray as short
from tests.ray_cluster import PATIENCE, ClusterMw, RayCluster, cluster, isolated, needed, platform
from tests.ray_gang import Gang, Witness, resumed_exactly

from modelworks.kernel.errors import Unavailable
from modelworks.runtime.ray.bridge_client import BridgeClient

pytestmark = [
    needed,
    pytest.mark.soak,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not isolated(), reason="hosts with networks of their own need root and ip"),
]
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
CANCELLED = max(200, int(SECONDS / 3))
STEP = 0.1  # seconds
LEAST = 1000  # steps, so that the work outlasts the faults


@pytest.fixture
def ray() -> Iterator[RayCluster]:
    with cluster(nodes=3) as one:
        yield one


@pytest.fixture
def mw(ray: RayCluster) -> Iterator[ClusterMw]:
    with platform(ray) as one:
        poll(lambda: ready(one) == 3)
        yield one


def poll(condition: Any, patience: float = PATIENCE) -> None:
    agents.poll(condition, patience)


def ready(mw: ClusterMw) -> int:
    try:
        _, nodes = BridgeClient(mw.home.bridge_socket).nodes()
    except Unavailable:  # it joins again a head that was lost
        return 0
    return sum(node.state == "ready" for node in nodes)


def disturb(ray: RayCluster, chance: random.Random, what: str, cut: float) -> None:
    host = chance.choice(ray.hosts)
    match what:
        case "cut":
            host.cut()
            time.sleep(cut)
            host.heal()
            # A raylet that was given up ends when it hears of it, and is started again by who keeps it.
            ray.kill_raylet(host)
            ray.join(host)
        case "raylet":
            ray.kill_raylet(host)
            time.sleep(chance.uniform(0, 30))
            ray.join(host)
        case _:
            ray.kill_head()
            ray.kill_raylets()
            ray.start()


def test_hundreds_of_cancelled_jobs_leave_nothing(mw: ClusterMw, ray: RayCluster) -> None:
    short.cancelled_at_random_moments(mw, ray, CANCELLED)


def test_a_disturbed_gang_ends_as_an_undisturbed_one(mw: ClusterMw, ray: RayCluster) -> None:
    seed = random.randrange(1 << 32)
    chance, steps = random.Random(seed), max(LEAST, int(SECONDS / STEP / 4))
    gang, kept = Gang(mw, "disturbed", 3), list[tuple[int, int]]()
    gang.submit(steps, STEP)
    until, rounds = time.monotonic() + SECONDS, 0
    faults = ["cut", "raylet", "head"]
    with Witness(ray, gang.uid) as witness:
        while not gang.ended() and (time.monotonic() < until or rounds < len(faults)):
            kept.append(gang.works(patience=600))
            time.sleep(chance.uniform(1, 10))
            # The first cut is longer than the lease for certain, later ones may be shorter.
            disturb(ray, chance, faults[rounds % len(faults)], chance.uniform(5, 60) if rounds else 60.0)
            poll(lambda: ready(mw) == 3, 600)
            rounds += 1
        poll(gang.ended, 1200 + steps * STEP * 3)
    assert rounds >= len(faults), f"it ended after {rounds} faults, seed {seed}"
    assert witness.overlaps == [], f"seed {seed}"
    try:
        resumed_exactly(gang, kept)
    except AssertionError as error:
        begun = [gang.begun(rank) for rank in range(3)]
        raise AssertionError(f"{error}; seed {seed}, attempts {sorted(witness.attempts)}, {begun}") from error
    poll(lambda: BridgeClient(mw.home.bridge_socket).groups() == [])
