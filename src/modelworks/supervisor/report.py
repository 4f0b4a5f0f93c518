"""Telling whoever started the platform how it goes: a terminal, or the waiting `up --detach` at a pipe's other end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

from modelworks.kernel.errors import SetupFailed

# A closed terminal or a full disk must not end the platform.
_unheard = contextlib.suppress(OSError)


@dataclass(frozen=True)
class Endpoint:
    """What a platform that is up is known by."""

    url: str
    s3_url: str
    home: str
    seconds: float


class Report(Protocol):
    def line(self, text: str) -> None:
        """One step, for people."""
        ...

    def ready(self, endpoint: Endpoint) -> None: ...

    def failed(self, error: SetupFailed) -> None: ...


class Terminal:
    """`up` in the foreground."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json

    def line(self, text: str) -> None:
        with _unheard:
            print(text, file=sys.stderr if self._json else sys.stdout, flush=True)

    def ready(self, endpoint: Endpoint) -> None:
        print_endpoint(endpoint, self._json)
        if not self._json:
            _print("  Ctrl-C stops it")

    def failed(self, error: SetupFailed) -> None:
        print_failure(error)


class Pipe:
    """`up --detach`: JSON lines to the waiting command until it knows how it ended, and a log for later."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def line(self, text: str) -> None:
        with _unheard:
            print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}", file=sys.stderr, flush=True)
        self._send({"line": text})

    def ready(self, endpoint: Endpoint) -> None:
        self._send({"ready": endpoint.__dict__})
        self._close()

    def failed(self, error: SetupFailed) -> None:
        self._send({"failed": {"detail": str(error), "remedy": error.remedy}})
        self._close()

    def _send(self, message: dict[str, Any]) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # the command was ended; the platform starts all the same
            self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def print_endpoint(endpoint: Endpoint, as_json: bool, again: bool = False) -> None:
    if as_json:
        _print(json.dumps(endpoint.__dict__))
        return
    how = "is already up" if again else f"is up after {endpoint.seconds:.1f} s"
    _print(f"Modelworks {how}: {endpoint.url}")
    _print(f"  S3    {endpoint.s3_url}")
    _print(f"  home  {endpoint.home}")


def print_failure(error: SetupFailed) -> None:
    """As every command of ``mw`` tells its errors (cli/problems.py)."""
    print(f"error: {error}", file=sys.stderr)
    if error.remedy:
        print(f"try: {error.remedy}", file=sys.stderr)


def _print(text: str) -> None:
    print(text, flush=True)
