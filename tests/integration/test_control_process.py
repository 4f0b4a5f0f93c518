"""The controller as a process: it waits for PostgreSQL, outlives it, and loses nothing that it acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests import engines

from modelworks.embedded import postgres
from modelworks.home import Home


@contextmanager
def controller(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    with (home.root / "controller.log").open("ab") as log:
        command = [sys.executable, "-m", "modelworks.main", "controller", "--home", str(home.root)]
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def client(home: Home) -> httpx.Client:
    key = (home.secrets / "local.key").read_text().strip()
    transport = httpx.HTTPTransport(uds=str(home.controller_socket))
    return httpx.Client(
        transport=transport, base_url="http://controller/api/v1", headers={"Authorization": f"Bearer {key}"}, timeout=15
    )


def healthy(home: Home) -> bool:
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(home.controller_socket))) as asked:
            return asked.get("http://controller/api/v1/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def eventually(check: Callable[[], object], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def instance_type(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "modelworks/v1",
        "kind": "InstanceType",
        "metadata": {"name": name},
        "spec": {"cpu": 1, "memory": "1Gi", "price_per_hour": 0.1},
    }


def apply(api: httpx.Client, name: str) -> bool:
    """True when the platform acknowledged it."""
    try:
        return api.post("/apply", json={"manifests": [instance_type(name)]}).status_code == 200
    except httpx.HTTPError:
        return False


def names(api: httpx.Client) -> set[str]:
    found = api.get("/resources/InstanceType", params={"limit": 1000})
    return {item["metadata"]["name"] for item in found.json()["items"]} if found.status_code == 200 else set()


@pytest.fixture
def prepared() -> Iterator[Home]:
    with engines.temporary_home() as home:
        home.run.mkdir(parents=True, exist_ok=True)
        home.volumes.mkdir()
        yield home


def test_nothing_acknowledged_is_lost_when_postgres_is_killed(prepared: Home) -> None:
    home = prepared
    launch, log = postgres.prepare(home), home.root / "postgres.log"
    acknowledged: set[str] = set()
    stop = threading.Event()

    def write(writer: int) -> None:
        with client(home) as api:
            for index in range(10_000):
                if stop.is_set():
                    return
                if apply(api, name := f"t{writer}-{index}"):
                    acknowledged.add(name)

    with controller(home) as process:
        # The controller is there first, and waits.
        server = engines.start(launch, log)
        try:
            eventually(lambda: healthy(home))
            with client(home) as api:
                writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
                for thread in writers:
                    thread.start()
                eventually(lambda: len(acknowledged) >= 20)
                engines.kill(server)
                server = engines.start(launch, log)
                before = len(acknowledged)
                eventually(lambda: len(acknowledged) >= before + 10)
                stop.set()
                for thread in writers:
                    thread.join()
                assert process.poll() is None
                assert acknowledged <= names(api)
                # Those who reconcile came back too.
                uid = api.get("/resources/InstanceType/t0-0").json()
                assert uid["metadata"]["generation"] == 1
                assert apply(api, "last")
                ready = lambda: api.get("/resources/InstanceType/last").json()["status"].get("phase") == "Ready"  # noqa: E731
                eventually(ready)
        finally:
            engines.kill(server)


def test_sigterm_is_a_clean_end(prepared: Home) -> None:
    home = prepared
    launch = postgres.prepare(home)
    with engines.running(launch, lambda: postgres.ready(home), home.root / "postgres.log"), controller(home) as process:
        eventually(lambda: healthy(home))
        assert home.controller_socket.stat().st_mode & 0o777 == 0o600
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(15) == 0
        assert not home.controller_socket.exists()
