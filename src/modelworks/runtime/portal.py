"""Unix socket → port, inside a replica's network namespace: ``python -I -S portal.py <socket> <port>``.

A replica that can only listen on a port gets a network of its own, where nobody can call it; this forwarder lets in who
may open the Unix socket, which is the gateway. Bytes pass through as they are. Standard library only.
"""

from __future__ import annotations

import os
import select
import socket
import sys

CHUNK = 256 * 1024
HIGH_WATER = 1024 * 1024


class End:
    """One side of a connection: what was read from its peer and waits to be written here."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.fd = connection.fileno()
        self.pending = bytearray()
        self.peer: End = self
        self.connected = True
        self.read_closed = False
        self.write_closed = False


class Portal:
    """One epoll loop. Half-closed connections are carried over; a full peer stops the reading side."""

    def __init__(self, listener: socket.socket, port: int) -> None:
        self.listener = listener
        self.port = port
        self.epoll = select.epoll()
        self.ends: dict[int, End] = {}
        self.epoll.register(listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        while True:
            for fd, events in self.epoll.poll():
                if fd == self.listener.fileno():
                    self.accept()
                elif fd in self.ends:
                    self.serve(self.ends[fd], events)

    def accept(self) -> None:
        try:
            accepted, _ = self.listener.accept()
        except OSError:
            return  # the caller gave up, or descriptors ran out; those waiting are accepted later
        front = End(accepted)
        back = End(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        front.peer, back.peer, back.connected = back, front, False
        for end in (front, back):
            end.socket.setblocking(False)
            self.ends[end.fd] = end
        back.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = back.socket.connect_ex(("127.0.0.1", self.port))
        if error not in (0, 115):  # EINPROGRESS
            self.close(front)
            return
        self.epoll.register(front.fd, select.EPOLLIN)
        self.epoll.register(back.fd, select.EPOLLOUT)

    def serve(self, end: End, events: int) -> None:
        try:
            if not end.connected:
                if end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self.close(end)
                    return
                end.connected = True
            if events & select.EPOLLOUT:
                self.write(end)
            if events & (select.EPOLLIN | select.EPOLLHUP) and not end.read_closed:
                self.read(end)
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                self.close(end)
        except BlockingIOError:
            return  # a spurious wake-up
        except OSError:
            self.close(end)
            return
        if end.fd in self.ends:
            self.finish(end)

    def read(self, end: End) -> None:
        data = end.socket.recv(CHUNK)
        if data:
            end.peer.pending += data
        else:
            end.read_closed = True
        if end.peer.connected:
            self.write(end.peer)

    def write(self, end: End) -> None:
        while end.pending:
            try:
                sent = end.socket.send(end.pending)
            except BlockingIOError:
                return
            del end.pending[:sent]
        if end.peer.read_closed and not end.write_closed:
            end.write_closed = True
            end.socket.shutdown(socket.SHUT_WR)

    def finish(self, end: End) -> None:
        """Close what is done on both sides, else watch for what can happen next."""
        if end.write_closed and end.peer.write_closed:
            self.close(end)
            return
        for one in (end, end.peer):
            events = 0
            if not one.connected or one.pending:
                events |= select.EPOLLOUT
            if one.connected and not one.read_closed and len(one.peer.pending) < HIGH_WATER:
                events |= select.EPOLLIN
            self.epoll.modify(one.fd, events)

    def close(self, end: End) -> None:
        for one in (end, end.peer):
            self.ends.pop(one.fd, None)
            one.socket.close()


def main(path: str, port: int) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(1024)
    listener.setblocking(False)
    Portal(listener, port).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
