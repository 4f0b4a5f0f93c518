"""A gang on a Ray cluster whose nodes are cut off, lose their raylets, or lose the head, again and again.

Never two of its attempts are at work at once, it resumes from its checkpoints, and ends with the weights of a run that
nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import re
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import agents
from tests.e2e import test_ray as short
from tests.ray_cluster import PATIENCE, ClusterMw, RayCluster, cluster, isolated, needed, platform

from modelworks.kernel.errors import Unavailable
from modelworks.runtime.ray.bridge_client import BridgeClient
from modelworks.sdk.waiting import phase_of

pytestmark = [
    needed,
    pytest.mark.soak,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not isolated(), reason="hosts with networks of their own need root and ip"),
]
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
CANCELLED = max(200, int(SECONDS / 3))
STEP = 0.1  # seconds
QUIET = 200  # steps of the undisturbed run
PROGRAM = """
import hashlib, os, time, torch, torch.distributed as dist
from modelworks.train import checkpoint
dist.init_process_group("gloo")
torch.manual_seed(7)
layers = [torch.nn.Linear(16, 32), torch.nn.Dropout(0.2), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 1)]
# Otherwise DDP lays its buckets out anew after its first step, and of three ranks gloo then adds in another order.
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers), find_unused_parameters=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
restored = checkpoint.restore(model=model, optimizer=optimizer)
first, steps = (restored.step if restored else 0), int(os.environ["STEPS"])
print("begins at", first, "exact" if restored is None or restored.exact else "inexact", flush=True)
for step in range(first, steps):
    batch = torch.randn(8, 16, generator=torch.Generator().manual_seed(1000 * step + dist.get_rank()))
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    checkpoint.maybe(step + 1, model=model, optimizer=optimizer)
    time.sleep(float(os.environ["PACE"]))
checkpoint.wait()
text = "".join(str(value.double().sum().item()) for value in model.state_dict().values())
print("weights", hashlib.sha256(text.encode()).hexdigest(), flush=True)
dist.destroy_process_group()
"""


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


class Witness(threading.Thread):
    """Looks all the time which attempts have a process at work on any host."""

    def __init__(self, ray: RayCluster, uid: str) -> None:
        super().__init__(daemon=True)
        self._ray, self._uid = ray, uid
        self.attempts: set[str] = set()
        self.overlaps: list[set[str]] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.1):
            seen = {attempt for host in self._ray.hosts for pid in host.pids() for attempt in self._of(pid)}
            self.attempts |= seen
            if len(seen) > 1:
                self.overlaps.append(seen)

    def _of(self, pid: int) -> list[str]:
        try:
            if b"init_process_group" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return []
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            return []
        return re.findall(rf"(?:^|\0)MW_RUN={self._uid}/(a\d+)/", environment)


def submit(mw: ClusterMw, name: str, steps: int, pace: float) -> str:
    spec = {
        "command": ["python", "-c", textwrap.dedent(PROGRAM)],
        "framework": "pytorch",
        "replicas": 3,
        "resources": {"cpu": "1", "memory": "1Gi"},
        "checkpoint": {"every": 10},
        "retries": 100,
        "env": {"STEPS": str(steps), "PACE": str(pace)},
    }
    manifest = mw.home.root / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump({"kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}))
    mw.ok("job", "submit", "-f", str(manifest))
    return str(get(mw, name)["metadata"]["uid"])


def get(mw: ClusterMw, name: str) -> dict[str, Any]:
    return dict(json.loads(mw.ok("get", "job", name, "--json")))


def weights(mw: ClusterMw, name: str) -> set[str]:
    document = get(mw, name)
    text = "".join(mw.ok("logs", name, "--replica", str(n)) for n in range(3))
    assert phase_of(document) == "Succeeded", f"{document['status']}\n{text[-3000:]}"
    return set(re.findall(r"weights (\w+)", text))


def beginnings(mw: ClusterMw, name: str) -> list[list[str]]:
    """Of each replica: where its attempts began, and whether as the one before had left it."""
    return [re.findall(r"begins at (.*)", mw.ok("logs", name, "--replica", str(n))) for n in range(3)]


def disturb(ray: RayCluster, chance: random.Random, what: str) -> None:
    host = chance.choice(ray.hosts)
    match what:
        case "cut":
            host.cut()
            time.sleep(chance.uniform(5, 60))
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
    chance, steps = random.Random(seed), max(QUIET, int(SECONDS / STEP / 4))
    uid = submit(mw, "disturbed", steps, STEP)
    witness = Witness(ray, uid)
    witness.start()
    until, rounds = time.monotonic() + SECONDS, 0
    faults = ["cut", "raylet", "head"]
    while phase_of(get(mw, "disturbed")) != "Succeeded" and (time.monotonic() < until or rounds < len(faults)):
        poll(lambda: phase_of(get(mw, "disturbed")) in ("Running", "Succeeded", "Failed"), 600)
        time.sleep(chance.uniform(1, 10))
        what = faults[rounds % len(faults)]
        disturb(ray, chance, what)
        poll(lambda: ready(mw) == 3, 600)
        rounds += 1
    poll(lambda: phase_of(get(mw, "disturbed")) in ("Succeeded", "Failed", "Cancelled"), 1200 + steps * STEP * 3)
    witness.stopping.set()
    witness.join()
    assert witness.overlaps == [], f"seed {seed}"
    disturbed, begun = weights(mw, "disturbed"), beginnings(mw, "disturbed")
    submit(mw, "quiet", steps, 0.0)
    poll(lambda: phase_of(get(mw, "quiet")) in ("Succeeded", "Failed"), 1200)
    assert weights(mw, "quiet") == disturbed, f"seed {seed}, attempts {sorted(witness.attempts)}, {begun}"
    assert len(witness.attempts) > 1, "nothing was disturbed"
    poll(lambda: BridgeClient(mw.home.bridge_socket).groups() == [])
