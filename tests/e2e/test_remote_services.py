"""Services whose replicas are on other nodes: reached through relays, replaced when their node is drained or lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import agents, leftovers, traffic
from tests.cli_platform import Mw, fresh
from tests.cluster import ClusterNode, nodes
from tests.e2e.test_services import connect, echo, status, written

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("kills")]
_PATIENCE = 120.0  # of a machine that has other things to do: two nodes' leases may end meanwhile, and begin again


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []


@pytest.fixture(scope="module")
def client(mw: Mw) -> Iterator[Client]:
    one = connect(mw)
    yield one
    one.close()


@pytest.fixture(scope="module")
def cluster(mw: Mw) -> Iterator[dict[str, ClusterNode]]:
    with nodes(mw, 2) as found:
        yield found


def test_replicas_answer_from_other_nodes_move_and_are_replaced(
    mw: Mw, client: Client, cluster: dict[str, ClusterNode], tmp_path: Path
) -> None:
    folder = written(tmp_path / "echo", "echo", echo(1), processor="python", entry="code.py:Echo")
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    (first,) = where(client)
    (replica,) = route(mw)["replicas"]
    assert replica["address"].startswith("tcp:127.0.0.1:")
    assert replica["run"].endswith("/0/0")
    assert "secret" not in json.dumps(replica)

    with traffic.steady(client.service_endpoint("echo"), client.service_token("echo")) as calls:
        calls.wait_answers(20)
        mw.ok("node", "drain", first, "--reason", "a new disk")
        poll(lambda: where(client) not in ([], [first]) and status(client, "echo").get("ready") == 1)
        calls.wait_answers(20)
        poll(lambda: not client.node(first)["workloads"])
    assert calls.seen.failed == []

    (second,) = where(client)
    mw.ok("node", "drain", second)
    stays = f"replica 0 moves, since node {second} is drained; until there is room elsewhere it serves on: "
    poll(lambda: f"{stays}no node may take it" in status(client, "echo")["message"])
    assert json.loads(mw.ok("service", "call", "echo", "-d", "1")) == {"version": 1, "data": 1}
    mw.ok("node", "uncordon", first)
    poll(lambda: where(client) == [first] and status(client, "echo").get("ready") == 1)

    mw.ok("node", "uncordon", second)
    cluster[first].network.cut()
    poll(lambda: where(client) == [second] and status(client, "echo").get("ready") == 1)
    assert json.loads(mw.ok("service", "call", "echo", "-d", "2")) == {"version": 1, "data": 2}
    cluster[first].network.heal()


def poll(condition: Callable[[], Any]) -> None:
    agents.poll(condition, _PATIENCE)


def where(client: Client) -> list[str]:
    """The nodes of the replicas that are not on their way out."""
    found = status(client, "echo")
    draining = found.get("draining") or {}
    return sorted(replica["node"] for replica in found["replicas"] if replica["key"] not in draining)


def route(mw: Mw) -> dict[str, Any]:
    (found,) = json.loads(mw.home.gateway_snapshot.read_text())["routes"]
    return dict(found)
