"""Jobs on a Ray cluster of three nodes: from submission to the first line at the client; of one replica, of gangs."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence

from tests.bench.harness import Entry, Figure, Unmeasurable, wait_for
from tests.ray_cluster import cluster, platform

from modelworks.runtime.ray.bridge_client import BridgeClient
from modelworks.sdk.client import Client

FIRST_LINE = Figure("training.ray_first_line_s", "s", 1.2, "lower")
GANG_FIRST_LINE = Figure("training.ray_gang_first_line_s", "s", 1.8, "lower")
FIGURES = (FIRST_LINE, GANG_FIRST_LINE)
_NODES, _JOBS = 3, 15
_PATIENCE = 120.0
# A whole node each, so that the ranks of a gang are on three of them.
_TYPE = {"cpu": 1, "memory": "512Mi"}


def run() -> Sequence[Entry]:
    if importlib.util.find_spec("ray") is None:
        raise Unmeasurable("ray is not installed")
    with cluster(nodes=_NODES) as ray, platform(ray) as mw:
        bridge = BridgeClient(mw.home.bridge_socket)
        wait_for(
            lambda: sum(node.state == "ready" for node in bridge.nodes()[1]) == _NODES,
            _PATIENCE,
            "the nodes are not up",
        )
        document = json.loads(mw.home.client.read_text())
        client = Client(document["url"], document["api_key"])
        # The first on each node makes what the others find there.
        _lines(client, bridge, "warm", _NODES)
        _lines(client, bridge, "warm-again", _NODES)
        one = [_lines(client, bridge, f"one-{number}", 1)[-1] for number in range(_JOBS)]
        gangs = [_lines(client, bridge, f"gang-{number}", _NODES) for number in range(_JOBS)]
        client.close()
    return [
        FIRST_LINE.medians(one, nodes=_NODES),
        GANG_FIRST_LINE.medians(
            [seconds[-1] for seconds in gangs], nodes=_NODES, first_of_any=sorted(round(s[0], 3) for s in gangs)
        ),
    ]


def _lines(client: Client, bridge: BridgeClient, name: str, replicas: int) -> list[float]:
    """After how many seconds the first line of each replica was at the client, in the order in which they came.

    Returns when the job's room is free again: the next is not to wait for it.
    """
    manifest = {
        "apiVersion": "modelworks/v1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "command": ["python", "-c", "print('first')"],
            "replicas": replicas,
            "framework": "pytorch",
            "resources": _TYPE,
        },
    }
    began = time.monotonic()
    client.apply([manifest])
    seen: list[float] = []
    text = b""
    for chunk in client.job_lines(name, follow=True) if replicas > 1 else client.job_log(name, follow=True):
        text += chunk
        while len(seen) < text.count(b"first\n"):
            seen.append(time.monotonic() - began)
    if len(seen) != replicas:
        status = client.get("TrainingJob", name)["status"]
        raise Unmeasurable(f"{name}: {len(seen)} of {replicas} replicas wrote their line: {status['message']}")
    wait_for(lambda: not bridge.groups(), _PATIENCE, f"the room of {name} is not free")
    return seen
