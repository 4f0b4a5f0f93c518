"""Where a node's relay listens: at the node's own address, on the port that is set, else on that of the last one."""

from __future__ import annotations

import errno
import json
import os
import socket

from modelworks.home import Home

ADDRESS, PORT = "MW_NODE_ADDRESS", "MW_RELAY_PORT"


def wished() -> int:
    """The port that is set for the node, 0 when it may be any. Raises OSError when it is none."""
    text = os.environ.get(PORT) or "0"
    if not (text.isascii() and text.isdecimal() and int(text) < 1 << 16):
        raise OSError(errno.EINVAL, f"{PORT} is {text!r}, and not a port (1 to 65535)")
    return int(text)


def bound(home: Home) -> socket.socket:
    """Listening there. Raises OSError that names the port."""
    address, port = os.environ.get(ADDRESS) or "127.0.0.1", wished()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    everywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
    ports = [port] if port else [_former(home), 0]
    for port in ports:
        for host in (address, everywhere):
            try:
                return socket.create_server((host, port), family=family, backlog=1024)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and host == address:
                    continue  # behind a translation of addresses: no interface of ours has it
                if error.errno == errno.EADDRINUSE and port != ports[-1]:
                    break
                raise OSError(error.errno, f"{host} port {port} cannot be listened at: {error.strerror}") from error
    raise AssertionError("unreachable")


def _former(home: Home) -> int:
    try:
        return int(json.loads(home.relay_state.read_text())["port"])
    except (OSError, ValueError, KeyError):
        return 0
