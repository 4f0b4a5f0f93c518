"""A service of a known capacity on a whole platform, requests far beyond it, and what the gateway says of them."""

from __future__ import annotations

import socket
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import yaml
from tests.bench.openloop import Call, Target
from tests.cli_platform import Mw

from modelworks.sdk.client import Client
from modelworks.supervisor.state import State

CAPACITY = 100
# By a schedule: what an answer costs beside its pause does not lower the capacity. It knows when it was held up: when
# more than 10 ms too much lay between two answers.
PACED = f"""
    import time
    class Paced:
        def initialize(self):
            self.due = self.last = 0.0
            self.stalls = []
        def process(self, data):
            if data.get("stalls"):
                found, self.stalls, self.last = self.stalls, [], 0.0
                return found
            now = time.monotonic()
            self.due = max(self.due + 1 / {CAPACITY}, now)
            time.sleep(self.due - now)
            done = time.monotonic()
            if self.last and done - self.last > 1 / {CAPACITY} + 0.01:
                self.stalls.append(done - self.last)
            self.last = done
            return {{"ok": True}}
    """


def deploy(mw: Mw, client: Client, folder: Path, name: str = "paced") -> Target:
    """The service, once it runs, with as much room in its queue as is usual."""
    (folder / "paced.py").write_text(textwrap.dedent(PACED))
    spec = {
        "processor": "python",
        "entry": "paced.py:Paced",
        "code": ".",
        "concurrency": 1,
        "resources": {"cpu": "500m", "memory": "256Mi"},
        "grace_period": "5s",
    }
    (folder / "paced.yaml").write_text(yaml.safe_dump({"kind": "Service", "metadata": {"name": name}, "spec": spec}))
    mw.ok("service", "create", "-f", "paced.yaml", "--wait", cwd=folder)
    return Target(client.service_endpoint(name), b'{"x": 1}', client.service_token(name))


def stalls(target: Target) -> list[float]:
    """Seconds between two answers of the service, each time that it was held up since it was last asked for them."""
    headers = {"Authorization": target.token}
    answer = httpx.post(target.url, json={"stalls": True}, headers=headers, timeout=60.0, trust_env=False)
    found = answer.raise_for_status().json()
    assert isinstance(found, list)
    return found


def hurried(target: Target, seconds: float) -> Target:
    """The same, and the answer is wanted within so many seconds."""
    return Target(target.url, target.body, target.token, [("X-Mw-Timeout-Ms", str(round(seconds * 1000)))])


def statuses(calls: Sequence[Call]) -> Counter[int]:
    return Counter(call.status for call in calls)


def goodput(calls: Sequence[Call], since: float, until: float) -> float:
    """Good answers a second that came between two moments since the beginning."""
    return sum(call.status == 200 and since <= call.due + call.took < until for call in calls) / (until - since)


class Gateways:
    """The gateways' processes and their own numbers, all of them together."""

    def __init__(self, mw: Mw) -> None:
        self._mw = mw
        self.pids = self._pids()

    def same(self) -> bool:
        """Whether they are the processes that they were."""
        return self._pids() == self.pids

    def memory(self, line: str = "VmRSS") -> int:
        """Resident bytes: now, or (``VmHWM``) at most so far."""
        found = 0
        for pid in self.pids:
            status = Path(f"/proc/{pid}/status").read_text()
            found += int(status.partition(f"\n{line}:")[2].split()[0]) * 1024
        return found

    def sample(self, metric: str) -> float:
        """The sum of a metric's samples whose name and labels begin so."""
        return sum(float(line.rpartition(" ")[2]) for line in self._lines() if line.startswith(metric))

    def buckets(self, histogram: str, service: str) -> dict[float, int]:
        """How many took at most so many seconds, by these; of all revisions."""
        found = Counter[float]()
        for line in self._lines():
            if line.startswith(f'{histogram}_bucket{{service="{service}"'):
                found[float(line.partition('le="')[2].partition('"')[0])] += int(line.rpartition(" ")[2])
        return dict(found)

    def _pids(self) -> list[int]:
        processes = State.load(self._mw.home).processes
        found = [one.identity for name, one in processes.items() if name.partition("-")[0] == "gateway"]
        return [identity.pid for identity in found if identity is not None]

    def _lines(self) -> list[str]:
        return [line for path in self._mw.home.gateway_sockets for line in _metrics(path).splitlines()]


def share_within(after: dict[float, int], before: dict[float, int], seconds: float) -> float:
    """Of those that came between two looks at a histogram: how many took no longer."""
    more = since(after, before)
    return more[seconds] / max(more[float("inf")], 1)


def since(after: dict[float, int], before: dict[float, int]) -> dict[float, int]:
    """What came between two looks at a histogram."""
    return {bound: after[bound] - before.get(bound, 0) for bound in after}


def _metrics(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(path))
        control.sendall(b"metrics\n")
        with control.makefile() as answer:
            return answer.read()
