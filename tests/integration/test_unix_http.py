"""The client of processes of this machine, against a server that answers, hangs up, is silent or is not there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelworks.runtime.unix_http import Answer, NoAnswer, UnixHttp

_GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"
Serve = Callable[[socket.socket], None]


@contextmanager
def listening(path: Path, *serves: Serve) -> Iterator[UnixHttp]:
    """Each connection is served by the next function."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def run() -> None:
            for serve in serves:
                connection, _ = server.accept()
                with connection:
                    serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        client = UnixHttp(path)
        try:
            yield client
        finally:
            client.close()
            thread.join()


def head(connection: socket.socket) -> bytes:
    """A request without a body; empty when the other side hung up."""
    data = b""
    while not data.endswith(b"\r\n\r\n") and (more := connection.recv(4096)):
        data += more
    return data


def test_a_connection_is_kept_and_one_that_was_closed_is_replaced(tmp_path: Path) -> None:
    heads: list[bytes] = []
    closed = threading.Event()

    def twice(connection: socket.socket) -> None:
        for _ in range(2):
            heads.append(head(connection))
            connection.sendall(_GOOD)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    def once(connection: socket.socket) -> None:
        heads.append(head(connection))
        connection.sendall(_GOOD.replace(b"200 OK", b"409 Conflict"))
        assert head(connection) == b""

    with listening(tmp_path / "s", twice, once) as client:
        assert client.call("GET", "/a", timeout=5, params={"b": "c d", "n": 1.5}) == Answer(200, b"ok")
        assert client.call("GET", "/b", timeout=5).good
        assert closed.wait(5)
        assert client.call("GET", "/c", timeout=5) == Answer(409, b"ok")
    assert heads[0].startswith(b"GET /a?b=c+d&n=1.5 HTTP/1.1\r\n")
    assert len(heads) == 3


def test_silence_and_a_cut_are_no_answer(tmp_path: Path) -> None:
    def silent(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    def cut(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(_GOOD[:-1])

    with listening(tmp_path / "s", silent, cut) as client:
        with pytest.raises(NoAnswer, match="timed out"):
            client.call("PUT", "/a", timeout=0.05, json={"a": [1, "b"]})
        with pytest.raises(NoAnswer):
            client.call("GET", "/b", timeout=5)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="No such file"):
        UnixHttp(tmp_path / "s").call("GET", "/", timeout=5)
