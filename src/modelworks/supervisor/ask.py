"""Asking a process whether it answers: one small request to its own door, without blocking who asks."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

_CONNECT_TIMEOUT = 0.5  # seconds; all doors are on this machine
_ENOUGH = 1024


class Protocol(StrEnum):
    HTTP = "http"
    POSTGRES = "postgres"


@dataclass(frozen=True)
class Question:
    """``address`` is ``unix:<path>`` or ``tcp:<host>:<port>``. HTTP: ``GET path`` is answered with 200."""

    address: str
    path: str = "/healthz"
    protocol: Protocol = Protocol.HTTP

    @classmethod
    def decode(cls, data: dict[str, str]) -> Self:
        """From JSON; the inverse of ``dataclasses.asdict``."""
        return cls(data["address"], data["path"], Protocol(data["protocol"]))


class Ask:
    """One question on its way. ``answer()`` is None until it is known; the descriptor becomes readable before that."""

    def __init__(self, question: Question) -> None:
        """Connect and send. Raises OSError when nobody listens there."""
        self._question = question
        self._received = b""
        self._socket = connect(question.address, _CONNECT_TIMEOUT)
        try:
            self._socket.sendall(_request(question))
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def answer(self) -> bool | None:
        """Read what has come: True is yes, False no, None not yet."""
        try:
            part = self._socket.recv(_ENOUGH)
        except BlockingIOError:
            return None
        except OSError:
            return False
        self._received += part
        verdict = _understand(self._question.protocol, self._received)
        return verdict if part and len(self._received) < _ENOUGH else bool(verdict)


def answers(question: Question, timeout: float = 2.0) -> bool:
    """Ask and wait for the answer; silence is no."""
    deadline = time.monotonic() + timeout
    try:
        ask = Ask(question)
    except OSError:
        return False
    with contextlib.closing(ask):
        poll = select.poll()
        poll.register(ask.fileno(), select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            verdict = ask.answer()
            if verdict is not None:
                return verdict
    return False


def connect(address: str, timeout: float) -> socket.socket:
    """A stream to ``unix:<path>`` or ``tcp:<host>:<port>``. Raises OSError."""
    kind, _, place = address.partition(":")
    if kind == "unix":
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(timeout)
        try:
            stream.connect(place)
        except OSError:
            stream.close()
            raise
        return stream
    host, _, port = place.rpartition(":")
    return socket.create_connection((host, int(port)), timeout)


def _request(question: Question) -> bytes:
    if question.protocol is Protocol.POSTGRES:
        # A start-up message; the server asks for a password before it would let us in.
        body = struct.pack("!i", 3 << 16) + b"user\0modelworks\0database\0modelworks\0\0"
        return struct.pack("!i", len(body) + 4) + body
    return f"GET {question.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("ascii")


def _understand(protocol: Protocol, received: bytes) -> bool | None:
    if protocol is Protocol.POSTGRES:
        # "R": authenticate yourself. "E": an error, of which 57P03 (starting up, recovering) is one.
        return None if not received else received[:1] == b"R"
    line, end, _ = received.partition(b"\r\n")
    return line.split(b" ")[1:2] == [b"200"] if end else None
