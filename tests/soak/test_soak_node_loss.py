"""Nodes cut off and healed, agents and the controller killed, at random and for long: never two attempts at work."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import leftovers
from tests.agents import poll
from tests.cli_platform import Mw, fresh
from tests.cluster import ClusterNode, nodes
from tests.e2e.test_node_loss import LEASE, WORKLOAD, at_work, manifest

from modelworks.sdk import jobs
from modelworks.sdk.client import Client
from modelworks.supervisor.state import State

pytestmark = pytest.mark.soak
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))


@pytest.fixture
def mw() -> Iterator[Mw]:
    with fresh(up=False) as one:
        one.home.config.write_text(f"node_lease: {LEASE}s\n")
        one.ok("up", "--detach")
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []


@pytest.mark.timeout(SECONDS + 900)
def test_nodes_that_come_and_go(mw: Mw) -> None:
    document = json.loads(mw.home.client.read_text())
    client = Client(document["url"], document["api_key"])
    chance, until = random.Random(), time.monotonic() + SECONDS
    with nodes(mw, 4) as cluster:
        client.apply([manifest("Volume", "marks", {"size": "1Gi", "shared": True})])
        poll(lambda: list(mw.home.volumes.iterdir()))
        (marks,) = mw.home.volumes.iterdir()
        rounds = 0
        while time.monotonic() < until:
            name, rounds = f"gang-{rounds}", rounds + 1
            for mark in marks.iterdir():
                mark.unlink()
            client.apply([manifest("TrainingJob", name, _spec())])
            for _ in range(chance.randrange(1, 5)):
                chance.choice((_cut, _kill_agent, _hang_agent, _kill_controller))(
                    mw, chance.choice(list(cluster.values()))
                )
                time.sleep(chance.uniform(0, 3 * LEASE))
            for node in cluster.values():
                _well(node)
            (marks / "finish").touch()
            done = jobs.wait(client, name)["status"]
            reasons = {attempt["reason"] for attempt in done["attempts"]}
            assert reasons <= {"Completed", "Lost", "LeaseExpired", "PeerFailed", "Stopped", "PreflightFailed"}, done
            _never_two(marks)
    client.close()


def _spec() -> dict[str, object]:
    return {
        "command": ["python", "-c", WORKLOAD],
        "replicas": 3,
        "resources": {"cpu": 1, "memory": "128Mi"},
        "volumes": [{"name": "marks", "mount_path": "/mnt/marks"}],
    }


def _cut(mw: Mw, node: ClusterNode) -> None:
    node.network.cut()


def _kill_agent(mw: Mw, node: ClusterNode) -> None:
    _well(node)
    node.agent.kill()
    node.agent.start()


def _hang_agent(mw: Mw, node: ClusterNode) -> None:
    node.agent.process.send_signal(signal.SIGSTOP)


def _kill_controller(mw: Mw, node: ClusterNode) -> None:
    identity = State.load(mw.home).processes["controller"].identity
    if identity is not None and identity.alive():
        os.kill(identity.pid, signal.SIGKILL)


def _well(node: ClusterNode) -> None:
    node.agent.process.send_signal(signal.SIGCONT)
    node.network.heal()


def _never_two(marks: Path) -> None:
    """Every replica of an attempt did its last before the first of the next began, and none was started twice."""
    spans = at_work(marks)
    assert all(len(found) == 1 for found in spans.values()), spans
    attempts = sorted({int(attempt) for attempt, _ in spans})
    for before, after in itertools.pairwise(attempts):
        last = max(end for (attempt, _), found in spans.items() for _, end in found if int(attempt) == before)
        first = min(begin for (attempt, _), found in spans.items() for begin, _ in found if int(attempt) == after)
        assert last < first, (before, after, spans)
