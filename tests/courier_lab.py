"""A courier process, the database it works on, and replicas that it finds in the routes: what its tests stand on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn, UnixStreamServer
from typing import Any

import httpx
import psycopg
from tests.gateway_lab import document

from modelworks.db.migrate import migrate
from modelworks.gateway.source import libpq_url
from modelworks.home import Home

TERMS = {"result_ttl": 600.0, "lease": 30.0, "attempts": 3, "max_pending": 100_000, "webhook": None}
Answer = tuple[int, dict[str, str], bytes]


class Replica:
    """A model: ``handler`` gets the body and answers status, headers, body. ``seen`` counts executions by task."""

    def __init__(self, path: Path | None, handler: Callable[[bytes, dict[str, str]], Answer]) -> None:
        self.path, self.seen = path, Counter[str]()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with outer._lock:
                    outer.seen[headers.get("x-mw-task-id", "")] += 1
                    outer.requests.append((self.path, headers, body))
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                try:
                    status, extra, answer = handler(body, headers)
                finally:
                    with outer._lock:
                        outer.at_once -= 1
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    for name, value in extra.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def address_string(self) -> str:
                return "replica"

            def log_message(self, *args: object) -> None: ...

        class Unix(ThreadingMixIn, UnixStreamServer):
            daemon_threads = True
            request_queue_size = 128

        class Tcp(ThreadingMixIn, TCPServer):
            daemon_threads = True
            request_queue_size = 128
            allow_reuse_address = True

        self._server = Unix(str(path), Handler) if path is not None else Tcp(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Lab:
    """Couriers of one home, and the database. Everything ends with the block."""

    def __init__(self, home: Home, database_url: str) -> None:
        self.home, self.url = home, libpq_url(database_url)
        self.environment: dict[str, str] = {}
        self.couriers: list[subprocess.Popen[bytes]] = []
        self.replicas: list[Replica] = []
        self.database = psycopg.connect(self.url, autocommit=True)
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(home.courier_socket)), base_url="http://courier", timeout=60.0
        )

    def replica(self, handler: Callable[[bytes, dict[str, str]], Answer] | None = None) -> Replica:
        path = self.home.run / f"replica-{len(self.replicas)}.sock"
        one = Replica(path, handler or (lambda body, headers: (200, {"Content-Type": "text/plain"}, body.upper())))
        self.replicas.append(one)
        return one

    def route(
        self, *replicas: Replica, service: str = "digits", terms: dict[str, Any] | None = None, **more: Any
    ) -> str:
        """Publish a service with these replicas; its uid. A resource of that uid exists, too."""
        more = {"keepalive": 60.0, "tasks": {**TERMS, **(terms or {})}, **more}
        found = document(*(one.path or "" for one in replicas), service=service, **more)
        uid = str(found["uid"])
        self.database.execute(
            "INSERT INTO resources (uid, workspace, kind, name, spec, resolved, labels)"
            " VALUES (%s, 'default', 'Service', %s, '{}', '{}', '{}') ON CONFLICT DO NOTHING",
            (uid, service),
        )
        self.database.execute(
            "INSERT INTO routes (workspace, name, uid, route) VALUES ('default', %s, %s, %s)"
            " ON CONFLICT (workspace, name) DO UPDATE SET route = excluded.route",
            (service, uid, json.dumps(found)),
        )
        self.database.execute("NOTIFY mw_routes")
        return uid

    def start(self) -> subprocess.Popen[bytes]:
        """Another courier, once it answers."""
        log = self.home.root / f"courier-{len(self.couriers)}.log"
        before = self._inode()
        with log.open("ab") as output:
            one = subprocess.Popen(
                [sys.executable, "-m", "modelworks.main", "courier", "--home", str(self.home.root)],
                env={**os.environ, **self.environment},
                stderr=output,
            )
        self.couriers.append(one)
        until(lambda: self._inode() not in (None, before), what=lambda: log.read_text())
        return one

    def kill(self, one: subprocess.Popen[bytes]) -> None:
        one.send_signal(signal.SIGKILL)
        one.wait()
        self.couriers.remove(one)

    def ask(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.home.courier_control_socket))
            control.sendall(f"{line}\n".encode())
            with control.makefile() as answer:
                return answer.read()

    @contextlib.contextmanager
    def traffic(self) -> Iterator[Callable[[], list[Any]]]:
        """The traffic reports so far, as they come."""
        lines: list[Any] = []
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.home.courier_control_socket))
            control.sendall(b"traffic\n")

            def follow() -> None:
                with control.makefile() as stream:
                    for line in stream:
                        lines.append(json.loads(line))

            thread = threading.Thread(target=follow, daemon=True)
            thread.start()
            try:
                yield lambda: list(lines)
            finally:
                control.shutdown(socket.SHUT_RDWR)
                thread.join()

    def knows(self, uid: str, replicas: int = 1) -> None:
        """Until the courier has that route."""

        def known() -> bool:
            services = json.loads(self.ask("status"))["services"]
            return any(one["replicas"] == replicas for name, one in services.items() if f"uid-{name}" == uid)

        until(known)

    def submit(self, uid: str, body: bytes = b"x", path: str = "/", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(path, content=body, headers={"X-Mw-Service-Uid": uid, **named})

    def get(self, uid: str, path: str) -> httpx.Response:
        return self.http.get(path, headers={"X-Mw-Service-Uid": uid})

    def result(self, uid: str, id: str, wait: str = "30s") -> httpx.Response:
        return self.get(uid, f"/sink?requestId={id}&wait={wait}")

    def rows(self, statement: str, *terms: Any) -> list[tuple[Any, ...]]:
        return list(self.database.execute(statement, terms).fetchall())

    def _inode(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return self.home.courier_socket.stat().st_ino
        return None

    def close(self) -> None:
        self.http.close()
        for one in self.couriers:
            if one.poll() is None:
                one.terminate()
        for one in self.couriers:
            one.wait(20)
        for replica in self.replicas:
            replica.stop()
        self.database.close()


@contextlib.contextmanager
def lab(home: Home, database_url: str) -> Iterator[Lab]:
    migrate(database_url)
    for folder in (home.run, home.secrets):
        folder.mkdir(parents=True, exist_ok=True)
    (home.secrets / "database.json").write_text(json.dumps({"url": database_url}))
    one = Lab(home, database_url)
    try:
        yield one
    finally:
        one.close()


def until(condition: Callable[[], object], timeout: float = 20.0, what: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what() or "it did not come to be"
        time.sleep(0.02)
