"""From the moment when a node's network is cut until another attempt of its job may start, under the default lease."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.harness import Entry, Figure, wait_for
from tests.cli_platform import fresh
from tests.cluster import ClusterNode, nodes

from modelworks.sdk.client import Client

NODE_LOSS = Figure("training.node_loss_s", "s", 25.0, "lower")
FIGURES = (NODE_LOSS,)
_ROUNDS = 3
_PATIENCE = 60.0
_WORK = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worst case: it ends by SIGKILL alone
mark = pathlib.Path("/mnt/marks", os.environ["MW_JOB"] + "." + os.environ["MW_ATTEMPT"])
written = mark.with_suffix(mark.suffix + ".written")
while True:
    written.write_text(str(time.monotonic()))
    written.replace(mark)  # killed between two bytes, it leaves the last whole one
    time.sleep(0.01)
"""


def run() -> Sequence[Entry]:
    with fresh() as mw, nodes(mw, 2) as machines:
        document = json.loads(mw.home.client.read_text())
        client = Client(document["url"], document["api_key"])
        client.apply([_manifest("Volume", "marks", {"size": "1Gi", "shared": True})])
        wait_for(lambda: any(mw.home.volumes.iterdir()), _PATIENCE, "no volume")
        (marks,) = mw.home.volumes.iterdir()
        rounds = [_lose(client, marks, f"job-{number}", machines) for number in range(_ROUNDS)]
        client.close()
    lost, fenced, working = zip(*rounds, strict=True)
    return [
        NODE_LOSS.medians(
            lost, fenced_s=[round(value, 2) for value in fenced], at_work_again_s=[round(value, 2) for value in working]
        )
    ]


def _lose(client: Client, marks: Path, name: str, machines: Mapping[str, ClusterNode]) -> tuple[float, float, float]:
    """Seconds from the cut until the first attempt counts as over, until it did its last, until the second works."""
    spec = {
        "command": ["python", "-c", _WORK],
        "resources": {"cpu": 1, "memory": "128Mi"},
        "volumes": [{"name": "marks", "mount_path": "/mnt/marks"}],
    }
    client.apply([_manifest("TrainingJob", name, spec)])
    wait_for((marks / f"{name}.1").exists, _PATIENCE, f"{name} did not work")
    (replica,) = client.get("TrainingJob", name)["status"]["replicas"]
    network = machines[replica["node"]].network
    cut = time.monotonic()
    network.cut()
    wait_for(lambda: client.get("TrainingJob", name)["status"].get("attempts"), _PATIENCE, f"{name} was not lost")
    lost = time.monotonic() - cut
    wait_for((marks / f"{name}.2").exists, _PATIENCE, f"{name} was not at work again")
    working = time.monotonic() - cut
    network.heal()
    client.cancel_job(name)
    wait_for(
        lambda: client.get("TrainingJob", name)["status"]["phase"] == "Cancelled",
        _PATIENCE,
        f"{name} was not cancelled",
    )
    return lost, float((marks / f"{name}.1").read_text()) - cut, working


def _manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "modelworks/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
