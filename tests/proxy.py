"""The way out for hosts that have none: an HTTP proxy on this machine that joins what it is asked to (CONNECT)."""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import socketserver
import threading
from collections.abc import Iterator

_PATIENCE = 60.0


class _Joining(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        method, _, rest = self.rfile.readline().decode("latin-1").partition(" ")
        while self.rfile.readline().strip():
            pass
        host, _, port = rest.split(" ")[0].rpartition(":")
        if method != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            return
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), _PATIENCE) as far:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            other = {self.connection: far, far: self.connection}
            while ready := select.select(list(other), [], [], _PATIENCE)[0]:
                for one in ready:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    other[one].sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def verify_request(self, request: object, client_address: object) -> bool:
        """It is for hosts of this machine alone."""
        return isinstance(client_address, tuple) and ipaddress.ip_address(client_address[0]).is_private


@contextlib.contextmanager
def proxy() -> Iterator[int]:
    """Its port, at every address of this machine."""
    with _Server(("0.0.0.0", 0), _Joining) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
