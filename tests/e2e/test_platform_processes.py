"""The whole platform with its real engines: it comes up, heals, is taken over, and goes without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import engines

from modelworks.home import Home
from modelworks.supervisor.procfs import Identity, pids
from modelworks.supervisor.state import State

ALL = {"postgres", "weed", "controller", "agent", "gateway", "courier"}


def mw(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "modelworks.supervisor",
        arguments[0],
        "--home",
        str(home.root),
        *arguments[1:],
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)


def get(home: Home, path: str) -> Any:
    client = json.loads(home.client.read_text())
    request = urllib.request.Request(client["url"] + path, headers={"Authorization": f"Bearer {client['api_key']}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def works(home: Home) -> bool:
    """The API, with its database, answers through the gateway."""
    try:
        return bool(get(home, "/api/v1/whoami"))
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def identities(home: Home) -> dict[str, Identity]:
    return {p.unit.name: p.identity for p in State.load(home).living() if p.identity}


def traces(home: Home) -> list[str]:
    """Processes that name the home, mounts below it, sockets in it."""
    needle = os.fsencode(home.root)
    found = []
    for pid in pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if needle in line and pid != os.getpid():
                found.append(f"{pid}: {line!r}")
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(home.root) in line]
    return found + [str(path) for path in home.root.rglob("*") if path.is_socket()]


@pytest.fixture(scope="module")
def platform() -> Iterator[Home]:
    with engines.temporary_home() as home:
        up = mw(home, "up", "--detach", "--port", "0", "--s3-port", "0", "--json")
        try:
            assert up.returncode == 0, up.stderr
            yield home
        finally:
            left = [Path(leaf) for p in State.load(home).processes.values() for leaf in p.unit.leaves]
            down = mw(home, "down", "--grace", "5")
        assert down.returncode == 0, down.stderr
        assert not traces(home)
        assert left
        assert not [path for path in left if path.exists()]
        assert mw(home, "status").returncode == 3


def test_every_process_answers(platform: Home) -> None:
    status = mw(platform, "status", "--json")
    document = json.loads(status.stdout)
    assert status.returncode == 0, document
    rows = {row["name"]: row for row in document["processes"]}
    assert rows.pop("tracking")["state"] == "on demand"  # nobody has asked for it yet
    assert set(rows) == {"supervisor", *ALL}
    assert all(row["state"] == "ready" and row["memory"] for row in rows.values())
    assert works(platform)


def test_a_second_up_changes_nothing(platform: Home) -> None:
    before = identities(platform)
    again = mw(platform, "up", "--detach")
    assert (again.returncode, "already up" in again.stdout) == (0, True)
    assert identities(platform) == before


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_killed_process_returns(platform: Home, name: str) -> None:
    before = identities(platform)
    os.kill(before[name].pid, signal.SIGKILL)
    until(lambda: identities(platform).get(name, before[name]) != before[name])
    until(lambda: mw(platform, "status").returncode == 0)
    assert works(platform)
    after = identities(platform)
    assert {other for other in ALL if after[other] == before[other]} == ALL - {name}


def test_the_platform_outlives_its_supervisor_and_is_taken_over(platform: Home) -> None:
    before = identities(platform)
    supervisor = State.load(platform).supervisor
    assert supervisor is not None
    assert supervisor.send(signal.SIGKILL)
    until(lambda: not supervisor.alive())
    assert works(platform)
    url = json.loads(platform.client.read_text())["url"]
    up = mw(platform, "up", "--detach", "--json")
    assert up.returncode == 0, up.stderr
    assert json.loads(up.stdout.splitlines()[-1])["url"] == url
    assert identities(platform) == before
    assert works(platform)
