"""What the bridge makes of Ray's words: room that is ours, a node that goes, messages passed on as they are."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from modelworks import __version__
from modelworks.kernel.errors import SetupFailed, Unavailable
from modelworks.kernel.run import NodeObservation
from modelworks.runtime.ray import wire
from modelworks.runtime.ray.door import Door
from modelworks.runtime.ray.inventory import Amounts, Group, RayNode
from modelworks.runtime.ray.nodes import socket_of
from modelworks.runtime.ray.room import Foreign, overlay
from modelworks.settings import Settings
from modelworks.supervisor.cluster import check

GIB = 1 << 30
SAID = {
    "name": "n1",
    "capacity": {"cpu": "8", "memory": 16 * GIB, "gpu": 2, "gpu_model": "H100"},
    "notes": ["a note"],
}


def node(cpu: int, free: int, **fields: object) -> RayNode:
    return RayNode("id", "10.0.0.1", Amounts(cpu, 4 * GIB, 1), Amounts(free, 4 * GIB, 1), **fields)  # type: ignore[arg-type]


def test_capacity_is_what_ray_counts() -> None:
    found = NodeObservation.parse(overlay(SAID, node(2000, 2000), Amounts(), None))
    assert (found.capacity.cpu, found.capacity.memory, found.capacity.gpu) == (2000, 4 * GIB, 1)
    assert found.capacity.gpu_model == "H100"
    assert found.notice_at is None


def test_what_others_hold_is_not_ours_to_give() -> None:
    found = NodeObservation.parse(overlay(SAID, node(2000, 500), Amounts(1500, GIB), 12.5))
    assert (found.capacity.cpu, found.capacity.memory) == (500, 3 * GIB)
    assert found.notes == ("a note", "other work on Ray holds 1500m CPU, 1Gi memory of node n1")
    assert (found.notice_at, found.notice) == (12.5, "Ray is draining the node")


def test_our_own_groups_are_not_others() -> None:
    """Nor is what Ray tells a moment late."""
    ours = (Group("g", "1", True, ("id", "else"), (Amounts(1500), Amounts(500))),)
    foreign = Foreign()
    for late in (2000, 500, 500, 500, 500, 500, 500):
        foreign.add(node(2000, late), ours)
    assert foreign.amounts == Amounts()
    for _ in range(6):
        foreign.add(node(2000, 0), ours)
    assert foreign.amounts == Amounts(500)


def test_a_node_with_another_release_says_what_to_install() -> None:
    said = asyncio.run(Door("9.9.9", "e").describe())
    assert said["problem"].startswith(f"modelworks is {__version__} for {sys.executable}")
    assert said["problem"].endswith(
        "and 9.9.9 on the platform; install it there: pip install 'modelworks[server]==9.9.9'"
    )
    answer = asyncio.run(Door("9.9.9", "e").http(wire.request("GET", "/node")))
    assert wire.status(answer) == 503
    assert b"9.9.9" in answer
    assert asyncio.run(Door(__version__, "e").describe())["problem"] == ""


def test_sockets_have_short_names() -> None:
    assert socket_of(Path("/r"), "node-1.example") == Path("/r/node-1.example.sock")
    for name in ("x" * 60, "../a", ".hidden", "a/b"):
        found = socket_of(Path("/r"), name)
        assert found.parent == Path("/r")
        assert len(found.name) == 21
        assert not found.name.startswith(".")


def test_messages_are_read_whole() -> None:
    async def read(data: bytes) -> list[bytes | None]:
        reader = asyncio.StreamReader(limit=wire.MOST_HEAD)
        reader.feed_data(data)
        reader.feed_eof()
        return [await wire.read_message(reader), await wire.read_message(reader)]

    first, second = wire.request("PUT", "/runs", {"a": 1}), wire.request("GET", "/node?x=1&x=2")
    assert asyncio.run(read(first + second)) == [first, second]
    assert wire.target(second) == ("GET", "/node", {"x": "2"})
    for broken in (first[:-1], first[:20], b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with pytest.raises(ConnectionError):
            asyncio.run(read(broken))


def test_problems_are_answers() -> None:
    answer = wire.problem(Unavailable("node n1 is joining", retry_after=1.0))
    assert wire.status(answer) == 503
    assert b'"code":"unavailable"' in wire.split(answer)[1]


GOOD = {
    "ray_address": "10.0.0.1:6379",
    "host": "0.0.0.0",
    "advertise_url": "http://10.0.0.1:8700",
    "advertise_s3_url": "http://10.0.0.1:8733",
}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}


def test_without_a_cluster_nothing_is_asked() -> None:
    assert check(Settings(), {}) == []


def test_a_platform_that_its_nodes_reach() -> None:
    pytest.importorskip("ray")
    assert check(Settings.parse(GOOD), TOKEN) == []
    external = {**GOOD, "advertise_s3_url": None, "s3_endpoint": "https://s3.example"}
    assert check(Settings.parse(external), TOKEN) == []
    (line,) = check(Settings.parse({**GOOD, "host": "127.0.0.1"}), TOKEN)
    assert "listen on 127.0.0.1 alone" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"advertise_url": None}, "MW_ADVERTISE_URL is needed"),
        ({"advertise_s3_url": None}, "MW_ADVERTISE_S3_URL is needed"),
        ({"advertise_url": "http://localhost:8700"}, "is the node itself"),
        ({"advertise_s3_url": "http://127.0.0.1:8733"}, "is the node itself"),
        ({"advertise_s3_url": None, "s3_endpoint": "http://[::1]:9000"}, "is the node itself"),
        ({"advertise_url": "10.0.0.1:8700"}, "no address of HTTP"),
    ],
)
def test_addresses_that_nodes_cannot_reach_are_refused(change: dict[str, str | None], said: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SetupFailed, match=said) as caught:
        check(Settings.parse({**GOOD, **change}), TOKEN)
    assert caught.value.remedy


def test_a_cluster_without_a_token_is_refused_unless_it_was_meant(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    settings = Settings.parse(GOOD)
    with pytest.raises(SetupFailed, match="has no token"):
        check(settings, {"HOME": str(tmp_path)})
    assert "disabled" in check(settings, {"RAY_AUTH_MODE": "disabled"})[0]
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert check(settings, {"HOME": str(tmp_path)}) == []
