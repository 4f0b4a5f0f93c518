"""The model server as a real process, for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


class Server:
    """One that runs: ``client`` speaks to its socket, or to its port when it was started with one."""

    def __init__(self, process: subprocess.Popen[bytes], client: httpx.Client, address: str) -> None:
        self.process = process
        self.client = client
        self.address = address  # a socket's path, or host:port

    def metric(self, name: str) -> float:
        """One value of ``/metrics``, by its name with labels."""
        for line in self.client.get("/metrics").text.splitlines():
            key, _, value = line.rpartition(" ")
            if key == name:
                return float(value)
        raise AssertionError(f"no metric {name}")

    def until(self, name: str, at_least: float) -> None:
        """Waits until a metric has grown so far."""
        for _ in range(2000):
            if self.metric(name) >= at_least:
                return
            time.sleep(0.005)
        raise AssertionError(f"{name} stays below {at_least}: {self.metric(name)}")


@contextmanager
def serving(*arguments: str, cwd: Path | None = None, tcp: bool = False, **env: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="mw-") as directory:
        path = f"{directory}/r.sock"
        port = _free_port() if tcp else 0
        where = {"PORT": str(port)} if tcp else {"MW_SOCKET": path}
        process = subprocess.Popen(
            [sys.executable, *(arguments if arguments[0].endswith(".py") else ("-m", "modelworks.server", *arguments))],
            env={name: value for name, value in os.environ.items() if name not in ("MW_SOCKET", "PORT")} | where | env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        transport = httpx.HTTPTransport() if tcp else httpx.HTTPTransport(uds=path)
        address = f"127.0.0.1:{port}" if tcp else path
        client = httpx.Client(transport=transport, base_url=f"http://{address if tcp else 'replica'}", timeout=30)
        try:
            _wait_ready(process, client)
            yield Server(process, client, address)
        finally:
            client.close()
            if process.poll() is None:
                process.kill()
            process.communicate()


def refused(*arguments: str, **env: str) -> str:
    """What the server says when it does not start: nothing but sentences."""
    done = subprocess.run(
        [sys.executable, "-m", "modelworks.server", *arguments],
        env=os.environ | {"MW_SOCKET": "/dev/null/none"} | env,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout
    said = done.stderr.decode()
    assert "Traceback" not in said
    return said


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_ready(process: subprocess.Popen[bytes], client: httpx.Client) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1].decode())
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server does not answer")
