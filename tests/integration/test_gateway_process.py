"""The gateway as a process: its sockets handed over, its routes from the database and from the disk, its restarts."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import psycopg
import pytest
from tests.gateway_lab import TOKEN, document

from modelworks.gateway.source import libpq_url
from modelworks.home import Home

ROUTES = "CREATE TABLE routes (workspace text, name text, uid text, route jsonb, PRIMARY KEY (workspace, name))"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"from the replica"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: object) -> None: ...


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


@pytest.fixture
def replica(home: Home) -> Iterator[Path]:
    home.root.mkdir(parents=True, exist_ok=True)
    home.run.mkdir(parents=True, exist_ok=True)
    path = home.run / "replica.sock"
    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as one:
        yield one


def start(home: Home, listening: socket.socket) -> subprocess.Popen[bytes]:
    home.logs.mkdir(parents=True, exist_ok=True)
    with (home.logs / "gateway.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "modelworks.main", "gateway", "--home", str(home.root)],
            env={**os.environ, "MW_LISTEN_FDS": str(listening.fileno())},
            pass_fds=[listening.fileno()],
            stderr=log,
        )


@contextmanager
def gateway(home: Home, listening: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    child = start(home, listening)
    try:
        until(lambda: ask(home, "status") is not None)
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait(15)


def until(condition: Callable[[], bool], timeout: float = 15.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ask(home: Home, line: str) -> str | None:
    with socket.socket(socket.AF_UNIX) as control:
        try:
            control.connect(str(home.gateway_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        control.sendall(f"{line}\n".encode())
        with control.makefile() as answer:
            return answer.read()


def get(port: int, path: str = "/api/predict/digits") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": TOKEN})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def snapshot(home: Home, replica: Path) -> None:
    home.gateway_snapshot.parent.mkdir(parents=True, exist_ok=True)
    home.gateway_snapshot.write_text(json.dumps({"routes": [document(replica)]}))


def test_it_serves_from_the_snapshot_while_the_database_is_down(
    home: Home, listening: socket.socket, replica: Path
) -> None:
    snapshot(home, replica)
    with gateway(home, listening) as child:
        port = listening.getsockname()[1]
        assert get(port) == (200, b"from the replica")
        assert get(port, "/healthz")[0] == 200
        assert json.loads(ask(home, "status") or "")["pid"] == child.pid
        assert "mw_gateway_requests_total" in (ask(home, "metrics") or "")
        assert (ask(home, "GET /metrics HTTP/1.1") or "").startswith("HTTP/1.0 200 OK")
        assert "unknown" in (ask(home, "something") or "")
        assert (home.gateway_socket.stat().st_mode & 0o777) == 0o600
    assert child.returncode == 0
    assert not home.gateway_socket.exists()


def test_a_broken_snapshot_does_not_keep_it_from_starting(home: Home, listening: socket.socket) -> None:
    home.gateway_snapshot.parent.mkdir(parents=True)
    home.gateway_snapshot.write_text('{"routes": [{"service"')
    with gateway(home, listening):
        assert get(listening.getsockname()[1])[0] == 404


def test_it_follows_the_database_and_writes_the_snapshot(
    home: Home, listening: socket.socket, replica: Path, database_url: str
) -> None:
    home.secrets.mkdir(parents=True, exist_ok=True)
    (home.secrets / "database.json").write_text(json.dumps({"url": database_url}))
    port = listening.getsockname()[1]
    with psycopg.connect(libpq_url(database_url), autocommit=True) as database, gateway(home, listening):
        database.execute(ROUTES)
        assert get(port)[0] == 404
        route = document(replica)
        database.execute("INSERT INTO routes VALUES ('default', 'digits', 'u', %s)", [json.dumps(route)])
        database.execute("NOTIFY mw_routes")
        until(lambda: get(port)[0] == 200)
        until(lambda: home.gateway_snapshot.exists() and "digits" in home.gateway_snapshot.read_text())
        assert json.loads(home.gateway_snapshot.read_text())["routes"][0]["service"] == "digits"
        assert (home.gateway_snapshot.stat().st_mode & 0o777) == 0o600
        # Another token: the old one is refused at once.
        route["token_sha256"] = [hashlib.sha256(b"new").hexdigest()]
        database.execute("UPDATE routes SET route = %s", [json.dumps(route)])
        database.execute("NOTIFY mw_routes")
        until(lambda: get(port)[0] == 401)
        # Its connection is cut: it comes back by itself and has missed nothing.
        database.execute("DELETE FROM routes")
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mw-gateway' "
            "AND datname = current_database()"
        )
        until(lambda: get(port)[0] == 404)


def test_the_listening_socket_is_handed_over(home: Home, listening: socket.socket) -> None:
    with gateway(home, listening), socket.socket(socket.AF_UNIX) as control:
        control.connect(str(home.gateway_socket))
        control.sendall(b"listen-fd\n")
        line, descriptors, _, _ = socket.recv_fds(control, 64, 4)
        assert line == b"fds 1\n"
        with socket.socket(fileno=descriptors[0]) as same:
            assert same.getsockname() == listening.getsockname()


def test_restarts_under_load_lose_nothing(home: Home, listening: socket.socket, replica: Path) -> None:
    snapshot(home, replica)
    port = listening.getsockname()[1]
    stop = threading.Event()
    answers: list[int] = []
    failures: list[BaseException] = []

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            while not stop.is_set():
                connection.request("GET", "/api/predict/digits", headers={"Authorization": TOKEN})
                answer = connection.getresponse()
                answer.read()
                answers.append(answer.status)
        except (OSError, http.client.HTTPException) as error:
            failures.append(error)
        finally:
            connection.close()

    child = start(home, listening)
    children = [child]
    try:
        until(lambda: ask(home, "status") is not None)
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            seen = len(answers)
            until(lambda seen=seen: len(answers) > seen + 50)
            successor = start(home, listening)
            children.append(successor)
            until(lambda pid=successor.pid: json.loads(ask(home, "status") or '{"pid": 0}')["pid"] == pid)
            child.send_signal(signal.SIGTERM)
            assert child.wait(15) == 0
            assert home.gateway_socket.exists()
            child = successor
        stop.set()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        for one in children:
            if one.poll() is None:
                one.terminate()
                one.wait(15)
    assert failures == []
    assert set(answers) == {200}
