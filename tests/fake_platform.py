"""A platform of stand-in processes under the real supervisor: ``python fake_platform.py up|down|status …``.

A file in the home changes a stand-in: ``fail-<name>`` lets it end with its text as last words, ``deaf-<name>`` lets it
ignore SIGTERM, ``silent-<name>`` keeps it from answering. With ``busy-gateway`` the gateway drains for as long as
somebody stands by and the file is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.supervisor.ask import Question
from modelworks.supervisor.cli import main
from modelworks.supervisor.preparation import PUBLIC, Addresses, Program
from modelworks.supervisor.prepare import parser
from modelworks.supervisor.unit import Unit

ENTRY = (sys.executable, __file__)
PROGRAM = Program(prepare=(*ENTRY, "prepare"), sweep=(*ENTRY, "sweep"))


def prepare(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    home = Home(Path(options.home))
    failure = home.root / "fail-prepare"
    if failure.exists():
        error = SetupFailed(failure.read_text(), remedy="remove the file")
        return _tell({"failed": {"detail": error.detail, "remedy": error.remedy}}) or 1
    host, port = options.host or "127.0.0.1", options.port if options.port is not None else options.known_port or 0
    address = Addresses(host, port, 9, host, "http://127.0.0.1:9")
    _tell({"addresses": asdict(address)})
    for name, after, step in (
        ("postgres", (), False),
        ("migrate", ("postgres",), True),
        ("controller", ("migrate",), False),
        ("agent", (), False),
    ):
        questions = () if step else (Question(f"unix:{home.run / f'{name}.sock'}"),)
        argv = (*ENTRY, "child", name, str(home.root))
        unit = Unit(name, argv, after, step, questions, stop_timeout=2.0)
        if name not in options.running:
            _tell({"unit": asdict(unit)})
    health = Question(f"unix:{home.run / 'gateway-health.sock'}")
    argv = (*ENTRY, "child", "gateway", str(home.root))
    gateway = Unit("gateway", argv, questions=(health, Question(PUBLIC)), listens=True, stop_timeout=2.0)
    _tell({"unit": asdict(gateway)})
    return 0


def _tell(message: object) -> int:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
    return 0


class Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True


class Unix(Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        Path(str(self.server_address)).unlink(missing_ok=True)
        self.socket.bind(self.server_address)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"pid": os.getpid(), "isolation": True, "isolation_note": "stand-in"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        sys.stderr.write(f"asked for {self.path} {body}\n")
        self.do_GET()

    def address_string(self) -> str:
        return "local"


def child(name: str, root: str) -> int:
    home = Home(Path(root))
    if (home.root / f"fail-{name}").exists():
        sys.stderr.write((home.root / f"fail-{name}").read_text() + "\n")
        return 7
    if name == "migrate":
        return 0
    if (home.root / f"deaf-{name}").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if name == "controller":
        (home.secrets / "local.key").write_text("stand-in-key\n")
    if name == "gateway":
        listening = int(os.environ["MW_LISTEN_FDS"].split(",")[0])
        public = Server(("", 0), Handler, bind_and_activate=False)
        public.socket = socket.socket(fileno=listening)
        threading.Thread(target=public.serve_forever, args=(0.02,), daemon=True).start()
        standing_by: list[socket.socket] = []
        threading.Thread(target=_hand_over, args=(home, listening, standing_by), daemon=True).start()
        if (home.root / "busy-gateway").exists():
            drain = partial(_drain, home, public, standing_by)
            signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=drain).start())
        name = "gateway-health"
    if (home.root / f"silent-{name}").exists():
        signal.pause()
    server = Unix(str(home.run / f"{name}.sock"), Handler)  # type: ignore[arg-type]
    server.serve_forever()
    return 0


def _drain(home: Home, public: Server, standing_by: list[socket.socket]) -> None:
    public.shutdown()
    for stream in standing_by:
        stream.sendall(b"draining\n")
        stream.settimeout(0.02)
    while standing_by and (home.root / "busy-gateway").exists():
        with contextlib.suppress(TimeoutError):
            if not standing_by[0].recv(1):
                break
    os._exit(0)


def _hand_over(home: Home, listening: int, standing_by: list[socket.socket]) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        home.gateway_socket.unlink(missing_ok=True)
        control.bind(str(home.gateway_socket))
        control.listen()
        while True:
            stream, _ = control.accept()
            line = stream.recv(64)
            if line == b"stand-by\n":
                standing_by.append(stream)
                continue
            with stream:
                if line == b"listen-fd\n":
                    socket.send_fds(stream, [b"ok\n"], [listening])


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "prepare":
        sys.exit(prepare(rest))
    if verb == "sweep":
        sys.exit(0)
    if verb == "child":
        sys.exit(child(*rest))
    sys.exit(main([verb, *rest], ENTRY, PROGRAM))
