"""Replicas: readiness, both transports, and who can reach them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.agents import python, run_spec, wait_ended, wait_for

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.run import Listen, RunPhase, RunReason, Transport
from modelworks.runtime import sandbox
from modelworks.runtime.local import kill_all

UNIX_SERVER = """
import os, socketserver, http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists(os.environ["HOME"] + "/sick") else 200)
        self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
        if self.path == "/sicken": open(os.environ["HOME"] + "/sick", "w").close()
    def address_string(self): return "unix"
    def log_message(self, *args): pass
socketserver.ThreadingUnixStreamServer(os.environ["MW_SOCKET"], Handler).serve_forever()
"""
PORT_SERVER = "import os,sys; from http.server import *; os.chdir(os.environ['HOME']); \
ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), SimpleHTTPRequestHandler).serve_forever()"


@pytest.fixture(params=["sandbox", "plain"])
def agent(request: pytest.FixtureRequest, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessAgent]:
    if request.param == "plain":
        monkeypatch.setenv("MW_ISOLATION", "off")
    sandbox.probe.cache_clear()
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)
    sandbox.probe.cache_clear()


def call(address: str | None, path: str) -> httpx.Response:
    assert address is not None
    with httpx.Client(transport=httpx.HTTPTransport(uds=address.removeprefix("unix:"))) as client:
        return client.get(f"http://replica{path}", timeout=20)


def test_a_replica_on_its_socket(agent: InProcessAgent) -> None:
    run = python(0, UNIX_SERVER, listen=Listen(period=0.1, failures=2))
    agent.ensure(run)
    ready = wait_for(agent, run.key, lambda seen: seen.ready)
    assert call(ready.address, "/health").text == "ok"
    call(ready.address, "/sicken")
    sick = wait_for(agent, run.key, lambda seen: not seen.ready)
    assert (sick.phase, sick.reason) == (RunPhase.RUNNING, RunReason.UNHEALTHY)
    assert "503" in sick.message
    agent.stop(run.key, 5.0)
    assert wait_ended(agent, run.key).address is None


@pytest.mark.parametrize("network", ["isolated", "host"])
def test_a_replica_on_a_port(agent: InProcessAgent, network: str) -> None:
    listen = Listen(transport=Transport.PORT, path="/", network=network, port=8123)
    run = python(0, PORT_SERVER, listen=listen)
    agent.ensure(run)
    ready = wait_for(agent, run.key, lambda seen: seen.ready)
    assert "Directory listing" in call(ready.address, "/").text
    if network == "isolated" and agent.node().isolation:
        with socket.socket() as outside:
            assert outside.connect_ex(("127.0.0.1", 8123)) != 0
    agent.stop(run.key, 5.0)
    wait_ended(agent, run.key)


def test_the_portal_carries_large_bodies_both_ways(agent: InProcessAgent) -> None:
    program = """
import os, http.server
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Echo).serve_forever()
"""
    run = python(0, program, listen=Listen(transport=Transport.PORT))
    agent.ensure(run)
    address = wait_for(agent, run.key, lambda seen: seen.ready).address
    assert address is not None
    body = os.urandom(8 << 20)
    with httpx.Client(transport=httpx.HTTPTransport(uds=address.removeprefix("unix:"))) as client:
        for _ in range(3):
            assert client.post("http://replica/", content=body, timeout=60).content == body
    agent.stop(run.key, 5.0)
    wait_ended(agent, run.key)


def test_who_never_gets_ready_is_stopped(agent: InProcessAgent) -> None:
    run = run_spec(0, "sleep", "600", listen=Listen(startup=0.3))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.reason is RunReason.NOT_READY
    assert seen.message == "it was not ready within 0.3 s: it does not listen yet"


def test_an_adopted_replica_stays_ready(home: Home) -> None:
    run = python(0, UNIX_SERVER, listen=Listen())
    with InProcessAgent(home) as agent:
        agent.ensure(run)
        wait_for(agent, run.key, lambda seen: seen.ready)
    with InProcessAgent(home) as agent:
        adopted = wait_for(agent, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
        assert adopted.ready
        assert call(adopted.address, "/health").status_code == 200
        kill_all(home, grace=0.0)


def test_the_sandbox_hides_the_platform(home: Home) -> None:
    if not sandbox.probe().enabled:
        pytest.skip(sandbox.probe().note)
    home.secrets.mkdir()
    (home.secrets / "master.key").write_text("secret")
    existing = [path for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs") if Path(path).exists()]
    program = f"""
import os, glob
print("home", os.path.exists({str(home.root / "secrets")!r}), os.path.exists({str(home.agent)!r}))
print("caps", [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
print("root", os.getuid() == 0 and {os.geteuid() == 0})
print("processes", len([p for p in os.listdir("/proc") if p.isdigit()]) < 6)
print("sockets", glob.glob({str(home.run)!r} + "/*"))
print("here", os.getcwd(), os.environ["HOME"], os.path.exists("/etc/shadow"))
open("/tmp/x", "w").write("x"); open("y", "w").write("y")
try: open("/usr/x", "w")
except OSError: print("read-only")
print("names and certificates", all(os.access(p, os.R_OK) for p in {existing!r}))
import modelworks.kernel, getpass; print(modelworks.kernel.__file__, getpass.getuser())
"""
    with InProcessAgent(home) as agent:
        run = python(0, program)
        agent.ensure(run)
        wait_ended(agent, run.key)
        lines = agent.log(run.key).decode().splitlines()
    assert lines == [
        "home False False",
        "caps ['0000000000000000']",
        "root False",
        "processes True",
        "sockets []",
        "here /ml/usercode /tmp False",
        "read-only",
        "names and certificates True",
        "/opt/modelworks/modelworks/kernel/__init__.py mw",
    ]


def test_python_is_the_platforms_own_without_an_environment(agent: InProcessAgent) -> None:
    run = python(0, "import sys; print(sys.prefix)")
    agent.ensure(run)
    wait_ended(agent, run.key)
    assert Path(agent.log(run.key).decode().strip()) == Path(sys.prefix)
