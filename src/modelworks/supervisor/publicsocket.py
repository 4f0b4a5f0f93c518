"""The public listening socket: bound once, inherited by the gateway, taken back from it by a later supervisor."""

from __future__ import annotations

import errno
import socket

from modelworks.kernel.errors import SetupFailed
from modelworks.supervisor.procfs import listener

BACKLOG = 4096
_REQUEST = b"listen-fd\n"


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of ``host``; port 0 picks a free one, the same for all. Raises SetupFailed."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SetupFailed(f"the host {host!r} is not known: {error.strerror}", remedy="correct --host") from error
    bound: list[socket.socket] = []
    try:
        for family, _, _, _, address in found:
            if address[0] in [one.getsockname()[0] for one in bound]:
                continue
            bound.append(_listen(family, address[0], bound[0].getsockname()[1] if bound else port))
    except OSError as error:
        for one in bound:
            one.close()
        raise refusal(error, host, port) from error
    return bound


def _listen(family: int, host: object, port: int) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((host, port))
        one.listen(BACKLOG)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def refusal(error: OSError, host: str, port: int, flag: str = "--port") -> SetupFailed:
    """The SetupFailed for a port that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        who = listener(port)
        return SetupFailed(
            f"port {port} is taken" + (f" by {who}" if who else ""),
            remedy=f"stop that process, or choose another port: {flag} 0 picks a free one",
        )
    if error.errno == errno.EACCES:
        return SetupFailed(f"this user may not listen on port {port}", remedy=f"choose one above 1023 with {flag}")
    if error.errno == errno.EADDRNOTAVAIL:
        return SetupFailed(f"{host} is no address of this machine", remedy="correct --host")
    return SetupFailed(f"cannot listen on {host}:{port}: {error.strerror}", remedy="choose another --host or --port")


def take_back(control_socket: str, timeout: float = 3.0) -> list[socket.socket]:
    """The listening socket of a gateway that lives, by its control socket. Raises OSError when it has none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(timeout)
        control.connect(control_socket)
        control.sendall(_REQUEST)
        _, descriptors, _, _ = socket.recv_fds(control, 64, 16)
    if not descriptors:
        raise ConnectionError("the gateway handed no socket over")
    return [socket.socket(fileno=fd) for fd in descriptors]
