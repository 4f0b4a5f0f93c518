"""Services on a Ray cluster: the quickstart as on one machine, through a node's relay, and a node that is cut off."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from tests.e2e.test_ray import poll, ready
from tests.proxy import proxy
from tests.ray_cluster import ClusterMw, RayCluster, cluster, isolated, needed, platform

pytestmark = [needed, pytest.mark.timeout(600), pytest.mark.xdist_group("ray")]
IMAGE = json.dumps({"instances": [[0.0] * 64]})


@pytest.fixture(scope="module")
def ray() -> Iterator[RayCluster]:
    with contextlib.ExitStack() as stack:
        way_out = {}
        if isolated():  # the hosts have their packages from an index beyond their network
            way_out["HTTPS_PROXY"] = f"http://head:{stack.enter_context(proxy())}"
        with mock.patch.dict(os.environ, way_out):
            one = stack.enter_context(cluster(nodes=2))
        yield one


@pytest.fixture(scope="module")
def mw(ray: RayCluster) -> Iterator[ClusterMw]:
    with platform(ray) as one:
        poll(lambda: len(ready(one)) == 2)
        yield one
        one.ok("down", "--grace", "2")
        assert [pid for host in ray.hosts for pid in host.pids() if is_relay(pid)] == []


def is_relay(pid: int) -> bool:
    try:
        return b"modelworks.main\0relay" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def where(mw: ClusterMw) -> list[str]:
    """The nodes of the ready replicas."""
    found = json.loads(mw.ok("get", "service", "digits", "--json"))["status"]
    return [replica["node"] for replica in found["replicas"] if replica["ready"]]


def test_the_quickstart_trains_and_serves_on_nodes(mw: ClusterMw, ray: RayCluster) -> None:
    done = mw("quickstart", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["accuracy"] >= 0.95
    (served,) = where(mw)
    host = next(host for host in ray.hosts if host.name == served)
    assert any(is_relay(pid) for pid in host.pids())
    (route,) = json.loads(mw.home.gateway_snapshot.read_text())["routes"]
    (replica,) = route["replicas"]
    assert replica["address"].startswith(f"tcp:{host.address}:")

    if host.namespace is None:
        return  # raylets of one host cannot be cut off from each other
    host.cut()
    poll(lambda: where(mw) not in ([], [served]))
    answer = json.loads(mw.ok("service", "call", "digits", "-d", IMAGE))
    assert len(answer["predictions"]) == 1
    host.heal()
