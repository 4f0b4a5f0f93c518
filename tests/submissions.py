"""Clients that submit tasks to an asynchronous service for as long as something else happens, and what came of them."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests import leftovers
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.sdk.client import Client
from modelworks.supervisor.state import State

# Each execution answers something else: a second result for a task could not go unseen.
PROCESSOR = """
import time
class Echo:
    def process(self, data):
        if "number" not in data:
            return b'{"detail": "no number"}', 422
        return {"number": data["number"], "execution": time.time_ns()}
"""
SERVICE = (
    "kind: Service\nmetadata: {name: later}\nspec: {processor: python, entry: 'echo.py:Echo', code: .,"
    " instance_type: local.tiny, replicas: %d, tasks: {lease: 20s, attempts: 20}}\n"
)


def deploy(mw: Mw, folder: Path, replicas: int = 2) -> None:
    """The service ``later``, once it runs."""
    (folder / "echo.py").write_text(PROCESSOR)
    (folder / "service.yaml").write_text(SERVICE % replicas)
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)


class Submissions:
    """``accepted``: id by number, for each that was answered 202. ``refused`` counts what was not, by what was said."""

    def __init__(self, url: str, token: str, pace: float, threads: int) -> None:
        self.accepted: dict[int, str] = {}
        self.refused: dict[str, int] = {}
        self._url, self._headers, self._pause = url, {"Authorization": token}, threads / pace
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int, timeout: float = 60.0) -> None:
        """Until so many more are accepted."""
        wanted, end = len(self.accepted) + count, time.monotonic() + timeout
        while len(self.accepted) < wanted:
            assert time.monotonic() < end, f"no more is accepted: {self.refused}"
            time.sleep(0.02)

    def results(self, timeout: float = 120.0) -> dict[int, Any]:
        """The result of each accepted task by number."""
        end = time.monotonic() + timeout
        with httpx.Client(trust_env=False, timeout=60.0, headers=self._headers) as http, ThreadPoolExecutor(8) as pool:

            def fetch(number: int, id: str) -> tuple[int, Any]:
                while True:
                    found = http.get(f"{self._url}/sink", params={"requestId": id, "wait": "10s"})
                    if found.status_code == 200:
                        return number, found.json()
                    assert found.status_code in (204, 503), (id, found.status_code, found.text)
                    assert time.monotonic() < end, http.get(f"{self._url}/tasks/{id}").text
                    time.sleep(0.05)

            return dict(pool.map(lambda pair: fetch(*pair), list(self.accepted.items())))

    def _run(self) -> None:
        due = time.monotonic()
        with httpx.Client(trust_env=False, timeout=30.0, headers=self._headers) as http:
            while not self._stop.is_set():
                number = next(self._numbers)
                self._submit(http, number)
                due += self._pause
                self._stop.wait(max(0.0, due - time.monotonic()))

    def _submit(self, http: httpx.Client, number: int) -> None:
        """Again with the same key until it is accepted, or nobody wants it any more."""
        while not self._stop.is_set():
            try:
                answer = http.post(self._url, json={"number": number}, headers={"Idempotency-Key": f"n{number}"})
            except httpx.TransportError as error:
                said = type(error).__name__
            else:
                if answer.status_code == 202:
                    self.accepted[number] = answer.json()["id"]
                    return
                said = str(answer.status_code)
                assert answer.status_code in (429, 502, 503), answer.text
            self.refused[said] = self.refused.get(said, 0) + 1
            self._stop.wait(0.1)


@contextmanager
def steady(mw: Mw, pace: float, threads: int = 8) -> Iterator[Submissions]:
    """``pace`` submissions a second to ``later`` for as long as the block lasts."""
    document = json.loads(mw.home.client.read_text())
    client = Client(document["url"], document["api_key"])
    one = Submissions(client.service_endpoint("later"), client.service_token("later"), pace, threads)
    client.close()
    one.start()
    try:
        yield one
    finally:
        one.stop()


def kill(mw: Mw, uid: str, name: str, rest: random.Random) -> None:
    """``kill -9`` of a process of the platform, or of a replica's server. Nothing starts a supervisor again but another
    ``mw up``, as a systemd unit would."""
    if name == "replica":
        pids = [int(line.split()[1].rstrip(":")) for line in leftovers.processes(uid) if "modelworks.server" in line]
        if pids:
            os.kill(rest.choice(pids), signal.SIGKILL)
        return
    state = State.load(mw.home)
    identity = state.supervisor if name == "supervisor" else state.processes[name].identity
    if identity is not None and identity.alive():
        os.kill(identity.pid, signal.SIGKILL)
        if name == "supervisor":
            poll(lambda: not identity.alive())  # it may still be in the kernel
            mw.ok("up", "--detach")


def check(submissions: Submissions, timeout: float = 120.0) -> None:
    """Every accepted task has one result, its own, and the same one whenever it is asked for."""
    first = submissions.results(timeout)
    assert len(set(submissions.accepted.values())) == len(submissions.accepted)
    assert {number: found["number"] for number, found in first.items()} == {n: n for n in submissions.accepted}
    assert submissions.results(timeout) == first
