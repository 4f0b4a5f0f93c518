"""Ten times what a replica can do, and twice for a moment: who is served, who is refused, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.bench.openloop import Call, Target, send
from tests.gateway_lab import TOKEN, document
from tests.integration.test_gateway_process import ask, gateway, until
from tests.paced_replica import paced

from modelworks.home import Home

_MIB = 1024 * 1024


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as one:
        yield one


@contextmanager
def service(home: Home, listening: socket.socket, **changes: Any) -> Iterator[tuple[Target, subprocess.Popen[bytes]]]:
    """A gateway, and a replica behind it that answers 100 requests a second."""
    home.run.mkdir(parents=True, exist_ok=True)
    home.gateway_snapshot.parent.mkdir(parents=True, exist_ok=True)
    path = home.run / "paced.sock"
    # What a route says that says nothing.
    route = {
        key: value
        for key, value in document(path).items()
        if key not in ("concurrency", "queue_size", "queue_timeout", "keepalive", "max_body")
    }
    home.gateway_snapshot.write_text(json.dumps({"routes": [{**route, "queue_size": 1000, **changes}]}))
    with paced(path, 0.01), gateway(home, listening) as child:
        port = listening.getsockname()[1]
        yield Target(f"http://127.0.0.1:{port}/api/predict/digits", b'{"x": 1}' * 100, TOKEN), child


def memory(child: subprocess.Popen[bytes], line: str = "VmRSS") -> int:
    """Resident bytes of a process: now, or (``VmHWM``) at most so far."""
    for found in Path(f"/proc/{child.pid}/status").read_text().splitlines():
        if found.startswith(f"{line}:"):
            return int(found.split()[1]) * 1024
    raise AssertionError(line)


def queued(home: Home) -> int:
    return int(json.loads(ask(home, "status") or "")["services"]["digits"]["queued"])


def hung(home: Home) -> list[str]:
    found: list[str] = json.loads(ask(home, "status") or "")["services"]["digits"]["hung"]
    return found


def statuses(calls: Sequence[Call]) -> Counter[int]:
    return Counter(call.status for call in calls)


def test_twice_as_much_for_two_seconds_is_delayed_and_not_refused(home: Home, listening: socket.socket) -> None:
    with service(home, listening) as (target, _):
        assert statuses(send(target, 50, 1)) == {200: 50}
        assert statuses(send(target, 200, 2)) == {200: 400}


@pytest.mark.parametrize("own", [False, True])
def test_ten_times_as_much_is_refused_and_the_rest_is_served(home: Home, listening: socket.socket, own: bool) -> None:
    changes = {} if own else {"queue_timeout": 1.0}
    with service(home, listening, concurrency=1, **changes) as (target, child):
        if own:
            target = Target(target.url, target.body, TOKEN, [("X-Mw-Timeout-Ms", "1000")])
        assert statuses(send(target, 50, 2)) == {200: 100}
        before = memory(child)
        found = statuses(send(target, 1000, 4))
        assert set(found) == {200, 429}
        assert found[200] >= 100  # what a loaded machine still serves in the time
        assert memory(child, "VmHWM") - before <= 64 * _MIB
        # Nothing of the flood is left: the next ones find no queue.
        until(lambda: queued(home) == 0)
        assert statuses(send(target, 20, 1)) == {200: 20}


def test_what_waits_is_bounded_in_bytes_too(home: Home, listening: socket.socket) -> None:
    with service(home, listening, concurrency=1) as (target, child):
        target = Target(target.url, b"x" * 60_000, TOKEN)
        assert statuses(send(target, 20, 1)) == {200: 20}
        before = memory(child)
        found = statuses(send(target, 400, 3))
        assert set(found) == {200, 429}
        assert memory(child, "VmHWM") - before <= 64 * _MIB


def silences(home: Home) -> list[tuple[str, float]]:
    """Which replicas were taken out, and how long each had said nothing then, by the gateway's clock."""
    lines = [json.loads(line) for line in (home.logs / "gateway.log").read_text().splitlines()]
    return [(line["replica"], line["silent"]) for line in lines if "silent" in line]


def test_a_replica_that_stands_still_is_out_within_ten_seconds(home: Home, listening: socket.socket) -> None:
    second = home.run / "second.sock"
    with service(home, listening) as (target, _):
        found = json.loads(home.gateway_snapshot.read_text())["routes"][0]["replicas"]
        both = [*found, {"id": "1-0", "address": f"unix:{second}", "revision": "r1"}]
    with paced(second, 0.01) as pid, service(home, listening, replicas=both) as (target, _):
        assert statuses(send(target, 50, 1)) == {200: 50}
        os.kill(pid, signal.SIGSTOP)
        # It still takes connections, as a process does that stands still; what it was given has no answer yet.
        calls = send(target, 20, 1, patience=0.5)
        assert statuses(calls)[200] < 20
        # Clients that give up soon do not hide it: what they waited counts together.
        rounds = 0
        while hung(home) != ["1-0"]:
            rounds += 1
            assert rounds < 100, "it is never taken out"
            send(target, 50, 1, patience=0.5)
        ((replica, silent),) = silences(home)
        assert replica == "1-0"
        assert 5.0 <= silent <= 10.0
        assert statuses(send(target, 50, 1)) == {200: 50}


def test_the_only_replica_that_hangs_on_the_first_request_after_a_restart_is_out(
    home: Home, listening: socket.socket
) -> None:
    second = home.run / "second.sock"
    second.parent.mkdir(parents=True, exist_ok=True)
    only = [{"id": "1-0", "address": f"unix:{second}", "revision": "r1"}]
    with paced(second, 0.01) as pid:
        with service(home, listening, replicas=only) as (target, _):
            assert statuses(send(target, 50, 0.5)) == {200: 25}
        with service(home, listening, replicas=only) as (target, _):
            os.kill(pid, signal.SIGSTOP)
            rounds = 0
            while hung(home) != ["1-0"]:
                rounds += 1
                assert rounds < 100, "it is never taken out"
                send(target, 2, 0.5, patience=1.0)
            ((replica, silent),) = silences(home)
            assert replica == "1-0"
            assert 5.0 <= silent <= 10.0
