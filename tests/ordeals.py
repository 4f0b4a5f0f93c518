"""What a service goes through while it is called at a constant rate: updates, canaries, restarts and failures.

Each function returns when what it did has had its whole effect, and the platform is as it was before.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from tests.agents import poll
from tests.cli_platform import Mw
from tests.constant_load import Caller

from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of
from modelworks.supervisor.procfs import Identity, descendants
from modelworks.supervisor.state import State

BUCKET = "versions"
ECHO = """
    import os, pathlib
    class Echo:
        def initialize(self):
            self.version = pathlib.Path(os.environ["MW_MODEL_DIR"], "version").read_text()
        def process(self, data):
            return {"number": data["number"], "version": self.version}
    """


class Echo:
    """The service ``echo``, whose model is nothing but a version that stands in each of its answers."""

    def __init__(self, mw: Mw, client: Client, folder: Path, replicas: int) -> None:
        self.mw, self.client, self.replicas = mw, client, replicas
        self.version = "1"
        mw.ok("apply", "-f", "-", stdin=f"kind: Bucket\nmetadata: {{name: {BUCKET}}}\nspec: {{}}\n")
        poll(lambda: phase_of(client.get("Bucket", BUCKET)) == "Ready")
        credentials = Credentials.parse(client.storage_credentials(write=[f"s3://{BUCKET}/"]))
        self._objects = ObjectClient(credentials)
        (folder / "echo.py").write_text(textwrap.dedent(ECHO))
        spec = {
            "processor": "python",
            "entry": "echo.py:Echo",
            "code": ".",
            "model": self.model("1"),
            "resources": {"cpu": "100m", "memory": "256Mi"},
            "replicas": replicas,
            "grace_period": "5s",
        }
        document = {"kind": "Service", "metadata": {"name": "echo"}, "spec": spec}
        (folder / "service.yaml").write_text(yaml.safe_dump(document))
        mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)

    def model(self, version: str) -> str:
        """The address of the model with that version, which is there then."""
        self._objects.put(ObjectUri(BUCKET, f"{version}/version"), version.encode())
        return f"s3://{BUCKET}/{version}/"

    def settled(self, beside: int = 0) -> bool:
        """All replicas are ready, so many of them of a canary, and no others are there."""
        document = self.client.get("Service", "echo")
        status = document.get("status") or {}
        if status.get("observed_generation") != document["metadata"]["generation"]:
            return False
        canary = (status.get("canary") or {}).get("revision")
        ready = [one["revision"] for one in status["replicas"] if one["ready"]]
        return (
            len(status["replicas"]) == self.replicas + beside
            and ready.count(status["revision"]) == self.replicas
            and ready.count(canary) == beside
        )

    def status(self) -> dict[str, Any]:
        return dict(self.client.get("Service", "echo")["status"])


def rolling_update(echo: Echo, calls: Caller, version: str) -> None:
    """All replicas are replaced by such of another version."""
    echo.mw.ok("service", "update", "echo", "--model", echo.model(version))
    _until(echo, calls, echo.settled, "it does not settle")
    echo.version = version
    _answers(echo, calls, version)


def canary(echo: Echo, calls: Caller, version: str) -> None:
    """0, 10, 50 and 100 percent of the requests go to another version, which is the service's own then."""
    echo.mw.ok("service", "update", "echo", "--canary-model", echo.model(version), "--canary-weight", "10")
    _until(echo, calls, lambda: echo.settled(beside=1), "the canary is not ready")
    _share(echo, calls, version, echo.version, 0.10)
    echo.mw.ok("service", "update", "echo", "--canary-weight", "50")
    _until(echo, calls, lambda: echo.settled(beside=max(1, echo.replicas // 2)), "the canary is not ready")
    _share(echo, calls, version, echo.version, 0.50)
    echo.mw.ok("service", "update", "echo", "--canary-weight", "100")
    _until(echo, calls, echo.settled, "it does not settle")
    echo.version = version
    _answers(echo, calls, version)


def rollback(echo: Echo, calls: Caller, version: str) -> None:
    """Back to the revision before, which was of ``version``."""
    echo.mw.ok("service", "rollback", "echo")
    _until(echo, calls, echo.settled, "it does not settle")
    echo.version = version
    _answers(echo, calls, version)


def gateway_restarts(mw: Mw, calls: Caller, times: int) -> None:
    """The gateway ends as it does when it is asked to, and the next one goes on at the same socket.

    A stream that is open at the first one is neither cut nor waited for: others are answered beside it.
    """
    first = process(mw, "gateway")
    with _watching(mw) as stream:
        for _ in range(times):
            before = process(mw, "gateway")
            os.kill(before.pid, signal.SIGTERM)
            _replaced(mw, "gateway", before)
            calls.last(0.5)
        assert first.alive()
        assert not _cut(stream)
    poll(lambda: not _alive(first.pid))


@contextmanager
def _watching(mw: Mw) -> Iterator[socket.socket]:
    """An answer of the API that does not end."""
    known = json.loads(mw.home.client.read_text())
    host = urlsplit(known["url"])
    with socket.create_connection((host.hostname or "127.0.0.1", host.port or 80)) as stream:
        head = f"GET /api/v1/watch?timeout=600 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {known['api_key']}\r\n\r\n"
        stream.sendall(head.encode())
        assert stream.recv(64).startswith(b"HTTP/1.1 200")
        yield stream


def _cut(stream: socket.socket) -> bool:
    """Whether its other end has closed it, when all that came is read."""
    try:
        while stream.recv(65536, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    return True


def killed(mw: Mw, calls: Caller, name: str) -> None:
    """``kill -9`` of one process of the platform; the supervisor starts the next."""
    before = process(mw, name)
    os.kill(before.pid, signal.SIGKILL)
    _replaced(mw, name, before)
    poll(lambda: mw("status").returncode == 0)
    calls.last(1)


def database_down(mw: Mw, calls: Caller, seconds: float) -> None:
    """PostgreSQL ends, and nobody starts it for so long."""
    before = process(mw, "postgres")
    with stopped(_supervisor(mw).pid):
        os.kill(before.pid, signal.SIGQUIT)  # an immediate end, as far as it can tell
        poll(lambda: not any(_alive(pid) for pid in (before.pid, *descendants(before.pid))))
        calls.last(seconds)
    _replaced(mw, "postgres", before)
    poll(lambda: mw("status").returncode == 0)
    calls.last(1)


def database_silent(mw: Mw, calls: Caller, seconds: float) -> None:
    """PostgreSQL keeps every connection and says nothing for so long."""
    with stopped(*descendants(process(mw, "postgres").pid)):
        calls.last(seconds)
    poll(lambda: mw("status").returncode == 0)
    calls.last(1)


def process(mw: Mw, name: str) -> Identity:
    """One of the platform's processes, which runs."""
    identity = State.load(mw.home).processes[name].identity
    assert identity is not None, f"{name} does not run"
    return identity


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """They do nothing for as long as the block lasts."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _supervisor(mw: Mw) -> Identity:
    identity = State.load(mw.home).supervisor
    assert identity is not None
    return identity


def _replaced(mw: Mw, name: str, before: Identity) -> None:
    def ready() -> bool:
        now = State.load(mw.home).processes[name]
        return now.identity not in (None, before) and now.phase == "ready"

    poll(ready)


def _alive(pid: int) -> bool:
    """Whether it runs; who has ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def _answers(echo: Echo, calls: Caller, version: str) -> None:
    """Soon nothing but ``version`` answers."""

    def others() -> int:
        return calls.seen.versions.total() - calls.seen.versions[version]

    def only() -> bool:
        before = others()
        calls.last(0.5)
        return others() == before

    _until(echo, calls, only, f"version {version} alone does not answer")


def _share(echo: Echo, calls: Caller, version: str, other: str, share: float) -> None:
    """Soon ``version`` answers its share of the requests; the shares are exact, but for those that are under way."""

    def seen() -> bool:
        before = calls.seen.versions[version], calls.seen.versions[other]
        calls.more(400)
        new, old = calls.seen.versions[version] - before[0], calls.seen.versions[other] - before[1]
        return abs(new / (new + old) - share) < 0.05

    _until(echo, calls, seen, f"version {version} does not get its share")


def _until(echo: Echo, calls: Caller, condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end, f"{otherwise}: {calls.seen}; {echo.status()}"
        time.sleep(0.02)
