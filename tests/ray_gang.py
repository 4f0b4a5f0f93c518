"""A gang that trains on a Ray cluster while its nodes and the head are lost, and what must be seen of it."""

from __future__ import annotations

import json
import re
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests import agents
from tests.checkpoints import kept
from tests.ray_cluster import PATIENCE, ClusterMw, Host, RayCluster

from modelworks.sdk.waiting import phase_of

BUCKET = "checkpoints"
EVERY = 5  # steps
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
step = restored.step if restored else 0
attempt = int(os.environ["MW_ATTEMPT"])
print("attempt", attempt, "begins at", step, "exact" if restored is None or restored.exact else "inexact", flush=True)
last = attempt >= int(os.environ["ATTEMPTS"])
until = max(step + int(os.environ["MORE"]), int(os.environ["STEPS"]))
while step < until or not last:
    batch = torch.randn(8, 16, generator=torch.Generator().manual_seed(1000 * step + dist.get_rank()))
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step += 1
    print(f"{step} {loss.item()!r}", flush=True)
    checkpoint.maybe(step, model=model, optimizer=optimizer)
    time.sleep(float(os.environ["PACE"]))
checkpoint.wait()
text = "".join(str(value.double().sum().item()) for value in model.state_dict().values())
print("weights", hashlib.sha256(text.encode()).hexdigest(), "after", step, flush=True)
dist.destroy_process_group()
"""


def poll(condition: Any, patience: float = PATIENCE) -> None:
    agents.poll(condition, patience)


@dataclass(frozen=True)
class Gang:
    """One job of ``replicas`` ranks, each of which has a node to itself."""

    mw: ClusterMw
    name: str
    replicas: int

    def submit(self, steps: int, pace: float, attempts: int = 1, more: int = 0) -> None:
        """It makes ``steps`` steps, each ``pace`` seconds, and an attempt at least ``more``; none before number
        ``attempts`` ends by itself."""
        spec = {
            "command": ["python", "-c", textwrap.dedent(PROGRAM)],
            "framework": "pytorch",
            "replicas": self.replicas,
            "resources": {"cpu": "1", "memory": "1Gi"},
            "checkpoint": {"every": EVERY, "uri": f"s3://{BUCKET}/"},
            "retries": 100,
            "env": {"STEPS": str(steps), "PACE": str(pace), "ATTEMPTS": str(attempts), "MORE": str(more)},
        }
        documents = [
            {"kind": "Bucket", "metadata": {"name": BUCKET}, "spec": {}},
            {"kind": "TrainingJob", "metadata": {"name": self.name}, "spec": spec},
        ]
        self.mw.ok("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.mw.ok("get", "job", self.name, "--json")))

    @property
    def uid(self) -> str:
        return str(self.document["metadata"]["uid"])

    @property
    def attempt(self) -> int:
        return int(self.document["status"].get("attempt", 0))

    def ended(self) -> bool:
        return phase_of(self.document) in ("Succeeded", "Failed", "Cancelled")

    def host(self, ray: RayCluster, rank: int) -> Host:
        (name,) = [line["node"] for line in self.document["status"]["replicas"] if line["ordinal"] == rank]
        (found,) = [host for host in ray.hosts if host.name == name]
        return found

    def log(self, rank: int) -> str:
        """Of all attempts."""
        return self.mw.ok("logs", self.name, "--replica", str(rank))

    def begun(self, rank: int) -> dict[int, tuple[int, str]]:
        """Of each attempt: with which step it began, and whether ``exact``ly as the one before had left it."""
        found = re.findall(r"^attempt (\d+) begins at (\d+) (\w+)$", self.log(rank), re.M)
        return {int(attempt): (int(step), how) for attempt, step, how in found}

    def losses(self, rank: int) -> dict[int, set[str]]:
        """Of each step: one, however often it was made."""
        found: dict[int, set[str]] = {}
        for step, loss in re.findall(r"^(\d+) (\S+)$", self.log(rank), re.M):
            found.setdefault(int(step), set()).add(loss)
        return found

    def weights(self, rank: int) -> tuple[str, int]:
        """At the end, and after how many steps. Of BatchNorm each rank has means of its own, until the next step."""
        text = self.log(rank)
        assert phase_of(self.document) == "Succeeded", f"{self.document['status']}\n{text[-3000:]}"
        ((digest, steps),) = re.findall(r"^weights (\w+) after (\d+)$", text, re.M)
        return digest, int(steps)

    def works(self, attempt: int = 1, patience: float = PATIENCE) -> tuple[int, int]:
        """Wait until that attempt, or one after it, has kept something: which one, and what it has kept, which is
        nothing when the job ends before."""
        found = (0, 0)

        def done() -> bool:
            nonlocal found
            now = self.attempt
            found = (now, kept(self.mw, BUCKET, self.name, now, self.replicas) if now >= attempt else 0)
            return found[1] > 0 or self.ended()

        try:
            poll(done, patience)
        except AssertionError as error:
            raise AssertionError(f"attempt {attempt}: {error}: {self.document['status']}\n{self.log(0)}") from error
        return found


class Witness(threading.Thread):
    """Looks all the time which attempts of a job have a process at work on any host."""

    def __init__(self, ray: RayCluster, uid: str) -> None:
        super().__init__(daemon=True)
        self._ray, self._uid = ray, uid
        self._stopping = threading.Event()
        self._broken: BaseException | None = None
        self.attempts: set[str] = set()
        self.overlaps: list[set[str]] = []

    def __enter__(self) -> Witness:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()
        if self._broken is not None:
            raise self._broken  # what it did not see it cannot witness

    def run(self) -> None:
        try:
            while not self._stopping.wait(0.1):
                seen = self.at_work()
                self.attempts |= seen
                if len(seen) > 1:
                    self.overlaps.append(seen)
        except BaseException as error:
            self._broken = error

    def at_work(self) -> set[str]:
        return {attempt for host in self._ray.hosts for pid in host.pids() for attempt in self._of(pid)}

    def _of(self, pid: int) -> list[str]:
        try:
            if b"init_process_group" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return []
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            return []
        return re.findall(rf"(?:^|\0)MW_RUN={self._uid}/(a\d+)/", environment)


def undisturbed(gang: Gang, steps: int) -> Gang:
    """The same job, with nothing in its way, once it has ended."""
    quiet = Gang(gang.mw, f"{gang.name}-not", gang.replicas)
    quiet.submit(steps, 0.0)
    poll(quiet.ended, 1200)
    return quiet


def resumed_exactly(gang: Gang, before: list[tuple[int, int]]) -> None:
    """``before``: attempts that were disturbed, and the step that each had whole in the store before that.

    Those after them began with that or a later one, exactly, and losses and weights are those of a job that nobody
    disturbed.
    """
    quiet = undisturbed(gang, gang.weights(0)[1])
    for rank in range(gang.replicas):
        begun = gang.begun(rank)
        assert begun.pop(1) == (0, "exact")
        assert begun, "nothing was disturbed"
        for attempt, (step, how) in begun.items():
            least = max((at for number, at in before if number < attempt), default=0)
            assert step >= least > 0, (rank, attempt, begun, before)
            assert how == "exact", (rank, attempt, begun)
        assert gang.losses(rank) == quiet.losses(rank)
        assert gang.weights(rank) == quiet.weights(rank)
