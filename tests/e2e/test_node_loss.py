"""A node of a job is cut off from the controller, and heals: never two attempts at work, and what was done is kept."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import leftovers
from tests.agents import poll
from tests.checkpoints import kept
from tests.cli_platform import Mw, fresh
from tests.cluster import ClusterNode, answers, nodes

from modelworks.kernel.run import RunPhase, RunReason
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.sdk import jobs
from modelworks.sdk.client import Client, Document

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("kills")]
LEASE = 5

# Each replica says all the time that it is at work; SIGTERM it does not hear.
WORKLOAD = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
marks = pathlib.Path("/mnt/marks")
attempt, rank = os.environ["MW_ATTEMPT"], os.environ["RANK"]
mark = marks / f"{attempt}.{rank}.{time.monotonic()}"
while not (marks / "finish").exists():
    mark.write_text(str(time.monotonic()))
    time.sleep(0.01)
pathlib.Path(os.environ["MW_OUTPUT_DIR"], "weights").write_text(f"attempt {attempt}, rank {rank}")
"""


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh(up=False) as one:
        one.home.config.write_text(f"node_lease: {LEASE}s\n")
        one.ok("up", "--detach")
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []


@pytest.fixture
def client(mw: Mw) -> Iterator[Client]:
    document = json.loads(mw.home.client.read_text())
    client = Client(document["url"], document["api_key"])
    yield client
    client.close()


@pytest.fixture
def cluster(mw: Mw) -> Iterator[dict[str, ClusterNode]]:
    with nodes(mw, 4) as found:
        yield found


def test_a_gang_loses_a_node_and_goes_on_elsewhere(mw: Mw, client: Client, cluster: dict[str, ClusterNode]) -> None:
    manifests: list[Document] = [
        manifest("Volume", "marks", {"size": "1Gi", "shared": True}),
        manifest("Bucket", "weights", {}),
        manifest(
            "TrainingJob",
            "gang",
            {
                "command": ["python", "-c", WORKLOAD],
                "replicas": 3,
                "resources": {"cpu": 1, "memory": "128Mi"},
                "volumes": [{"name": "marks", "mount_path": "/mnt/marks"}],
                "output": "s3://weights/best/",
                "grace_period": "1s",
            },
        ),
    ]
    client.apply(manifests)
    poll(lambda: list(mw.home.volumes.iterdir()))
    (marks,) = mw.home.volumes.iterdir()
    poll(lambda: beating(marks, "1") == {"0", "1", "2"})
    where = {line["ordinal"]: line["node"] for line in status(client)["replicas"]}
    assert len(set(where.values())) == 3
    lost = cluster[where[1]]
    lost.network.cut()
    poll(lambda: beating(marks, "2") == {"0", "1", "2"})
    after = {line["ordinal"]: line["node"] for line in status(client)["replicas"]}
    assert lost.name not in after.values()
    lost.network.heal()
    # The node comes back, and what it ran has ended by itself.
    uid = client.get("TrainingJob", "gang")["metadata"]["uid"]
    (run,) = lost.agent.client.observe(f"{uid}/a1/1/")
    assert (run.phase, run.reason) == (RunPhase.EXITED, RunReason.LEASE_EXPIRED)
    poll(lambda: answers(mw, lost.name))
    (marks / "finish").touch()
    done = jobs.wait(client, "gang")["status"]
    assert done["phase"] == "Succeeded", done
    assert [attempt["reason"] for attempt in done["attempts"]] == ["Lost", "Completed"]
    assert done["attempts"][0]["message"].startswith(f"replica 1: node {lost.name} is cut off")
    # What the winner committed is where the user wanted it, and nothing else is in the bucket.
    assert done["outputs"][0]["uri"] == "s3://weights/best/"
    objects = ObjectClient(Credentials.parse(client.storage_credentials(read=["s3://weights/"])))
    assert objects.get(ObjectUri("weights", "best/weights")) == b"attempt 2, rank 0"
    roots = {item.key.partition("/")[0] for item in objects.list(ObjectUri("weights"))}
    assert roots == {"best", "best.rank1", "best.rank2"}
    spans = at_work(marks)
    assert {key: len(found) for key, found in spans.items()} == dict.fromkeys(spans, 1)
    last = max(end for (attempt, _), found in spans.items() for _, end in found if attempt == "1")
    first = min(begin for (attempt, _), found in spans.items() for begin, _ in found if attempt == "2")
    assert last < first


# Each step adds as many as there are ranks.
ELASTIC = """
import os, time
from modelworks import train
from modelworks.train import checkpoint
size = int(os.environ["WORLD_SIZE"])
found = checkpoint.restore()
step, work = (found.step, found.state["work"]) if found else (0, 0)
print("size", size, "begins at", step, "with", work, flush=True)
while not train.should_stop() and not os.path.exists("/mnt/marks/finish"):
    step, work = step + 1, work + size
    checkpoint.maybe(step, work=work)
    time.sleep(0.05)
checkpoint.save(step, wait=True, work=work)
print("ends at", step, "with", work, flush=True)
"""


def test_an_elastic_job_loses_a_node_and_gets_it_back(mw: Mw, client: Client) -> None:
    """Its steps go on with two ranks, and then with three, and none that was kept is made again."""
    spec: Document = {
        "command": ["python", "-c", ELASTIC],
        "replicas": {"min": 1, "max": 3, "grow_after": "1s"},
        "resources": {"cpu": 1, "memory": "128Mi"},
        "volumes": [{"name": "flags", "mount_path": "/mnt/marks"}],
        "checkpoint": {"every": 20, "uri": "s3://kept/"},  # one a second
    }

    def kept_by(attempt: int) -> int:
        """Its first rank, of which there is always one; the ranks do not wait for each other."""
        return kept(mw, "kept", "elastic", attempt, 1)

    def trains(size: int) -> None:
        """Until an attempt with so many ranks has kept something of its own."""
        poll(lambda: (now := status(client, "elastic")).get("size") == size and kept_by(now["attempt"]) > 0, 120)

    with nodes(mw, 3) as found:
        client.apply([manifest("Volume", "flags", {"size": "1Gi", "shared": True}), manifest("Bucket", "kept", {})])
        client.apply([manifest("TrainingJob", "elastic", spec)])
        trains(3)
        before = status(client, "elastic")
        steps = kept_by(before["attempt"])
        where = {line["ordinal"]: line["node"] for line in before["replicas"]}
        lost = found[where[1]]
        lost.network.cut()
        trains(2)
        lost.network.heal()
        trains(3)
        flags = client.get("Volume", "flags")["metadata"]["uid"]
        (mw.home.volumes / flags / "finish").touch()
        done = jobs.wait(client, "elastic")["status"]
    assert done["phase"] == "Succeeded", done
    # It may have begun with two, before the platform had heard of the third node.
    accounts = [(attempt["reason"], attempt["replicas"]) for attempt in done["attempts"]][before["attempt"] - 1 :]
    assert accounts == [("Lost", 3), ("Resized", 2), ("Completed", 3)]
    said = b"".join(client.job_log("elastic", replica=0)).decode()
    begun = [tuple(map(int, line)) for line in re.findall(r"size (\d) begins at (\d+) with (\d+)", said)]
    *_, (end, total) = [tuple(map(int, line)) for line in re.findall(r"ends at (\d+) with (\d+)", said)]
    *_, (first, at_first, with_first), (second, at_second, with_second), (third, at_third, with_third) = begun
    assert (first, second, third) == (3, 2, 3)
    assert at_first < steps <= at_second < at_third < end
    assert with_second == with_first + 3 * (at_second - at_first)
    assert with_third == with_second + 2 * (at_third - at_second)
    assert total == with_third + 3 * (end - at_third)


def manifest(kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": "modelworks/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def status(client: Client, name: str = "gang") -> dict[str, Any]:
    found: dict[str, Any] = client.get("TrainingJob", name)["status"]
    return found


def beating(marks: Path, attempt: str) -> set[str]:
    """The ranks of an attempt that were seen at work."""
    return {path.name.split(".")[1] for path in marks.glob(f"{attempt}.*")}


def at_work(marks: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(attempt, rank) → from when to when each of its processes was at work, on the one clock of this machine."""
    found = defaultdict(list)
    for path in marks.glob("*.*.*"):
        attempt, rank, begin = path.name.split(".", 2)
        found[attempt, rank].append((float(begin), float(path.read_text() or begin)))
    return dict(found)
