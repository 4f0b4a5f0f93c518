"""Reaching a replica on another node: through its node's relay, with a secret of the run. Neutral: used by gateway,
courier, controller and agent.

Who calls sends one line that holds the secret, ``MW-RELAY/1 <64 hexadecimal digits>``, waits for ``MW-RELAY/1 ok``, and
is then connected to the replica's own socket: from there on bytes pass as they are. Any other end means that nothing
reached the replica. A secret follows from the home's master key and the run's key, so that none is stored or sent in a
route; its node knows its digest alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from modelworks.kernel.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.cipher import Cipher  # which takes a cryptographic library, and agents need none

_MARK = b"MW-RELAY/1 "
ACCEPTED = _MARK + b"ok\n"
_SECRET = 64  # hexadecimal digits: 256 bits
PREFACE = len(_MARK) + _SECRET + 1
"""Bytes of the line that a caller sends, its end included."""
# A node that is cut off says nothing: what was sent there is given up about when its lease is over.
_UNACKNOWLEDGED = 15_000  # milliseconds
_KEEPALIVE = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2))


def secret(cipher: Cipher, key: str) -> str:
    """What opens the way to the run ``key``."""
    return cipher.derive(f"relay/{key}").hex()


def digest(text: str) -> str:
    """What a node knows of a secret: its SHA-256 in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def claimed(line: bytes) -> str | None:
    """The digest of the secret in a caller's line of ``PREFACE`` bytes; None when it is no such line."""
    if len(line) != PREFACE or not line.startswith(_MARK) or not line.endswith(b"\n"):
        return None
    return hashlib.sha256(line[len(_MARK) : -1]).hexdigest()


class Secrets:
    """The caller's side of secrets. ``load`` reads the master key, when the first one is needed."""

    def __init__(self, load: Callable[[], Cipher] | None = None) -> None:
        self._load = load
        self._cipher: Cipher | None = None

    def preface(self, key: str) -> bytes:
        """The line for the run ``key``. Raises ConnectionError when there is no master key."""
        if self._cipher is None:
            if self._load is None:
                raise ConnectionError("there is no master key, from which the secrets of relays follow")
            try:
                self._cipher = self._load()
            except (ModelworksError, OSError) as error:
                raise ConnectionError(f"the master key, from which the secrets of relays follow: {error}") from error
        return _MARK + secret(self._cipher, key).encode() + b"\n"


async def connect(target: tuple[str, int], preface: bytes) -> socket.socket:
    """A connection on which the replica's bytes pass. Raises OSError; nothing has reached the replica then."""
    loop = asyncio.get_running_loop()
    host, port = target
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        watch(connection)
        await loop.sock_connect(connection, (host, port))
        await loop.sock_sendall(connection, preface)
        answer = b""
        while len(answer) < len(ACCEPTED):
            part = await loop.sock_recv(connection, len(ACCEPTED) - len(answer))
            if not part:
                raise ConnectionRefusedError(f"the relay at {host} port {port} does not let us in")
            answer += part
        if answer != ACCEPTED:
            raise ConnectionRefusedError(f"no relay listens at {host} port {port}")
    except ValueError as error:
        connection.close()
        raise ConnectionError(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def watch(connection: socket.socket) -> None:
    """Have the kernel find out that the other machine is gone, and send what is written at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
