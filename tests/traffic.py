"""A client that never rests: what the service answered while something else happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx


@dataclass
class Traffic:
    """Every answer to requests sent at a steady pace. ``failed`` holds (seconds since the start, what went wrong)."""

    answered: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)
    bodies: set[bytes] = field(default_factory=set)
    longest: float = 0.0

    def __str__(self) -> str:
        return f"{self.answered} answered, the slowest after {self.longest:.2f} s; {len(self.failed)} failed"


class Client:
    """Sends one request after the other in a thread of its own."""

    def __init__(self, url: str, token: str, pace: float = 50.0) -> None:
        self.seen = Traffic()
        self._url, self._token, self._pause = url, token, 1.0 / pace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def wait_answers(self, count: int, timeout: float = 60.0) -> None:
        """Until so many more have come."""
        wanted, deadline = self.seen.answered + count, time.monotonic() + timeout
        while self.seen.answered < wanted:
            assert time.monotonic() < deadline, f"no more answers: {self.seen}; {self.seen.failed[-3:]}"
            time.sleep(0.01)

    def _run(self) -> None:
        began = time.monotonic()
        headers = {"Authorization": self._token}
        with httpx.Client(trust_env=False, timeout=30.0, headers=headers) as http:
            while not self._stop.wait(self._pause):
                sent = time.monotonic()
                try:
                    answer = http.post(self._url, json={})
                except httpx.TransportError as error:
                    self.seen.failed.append((sent - began, f"{type(error).__name__}: {error}"))
                    continue
                self.seen.longest = max(self.seen.longest, time.monotonic() - sent)
                if answer.status_code == 200:
                    self.seen.answered += 1
                    self.seen.bodies.add(answer.content)
                else:
                    self.seen.failed.append((sent - began, f"{answer.status_code}: {answer.text[:200]}"))


@contextmanager
def steady(url: str, token: str, pace: float = 50.0) -> Iterator[Client]:
    """``pace`` requests a second to ``url`` for as long as the block lasts."""
    client = Client(url, token, pace)
    client.start()
    try:
        yield client
    finally:
        client.stop()
