"""Requests a second of the gateway with its token check, against HAProxy with one thread that compares the same token.

Both are pinned to one core and forward to the same stub on the same Unix socket: another HAProxy that answers 1 KB of
JSON by itself, faster than either. ``wrk`` (16 connections, POST of 1 KB JSON) shares the other core with the stub.
 HAProxy rewrites the path and sets X-Forwarded-For, as the gateway does.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.harness import (
    ROOT,
    Entry,
    Figure,
    Unmeasurable,
    answers,
    folder,
    free_port,
    interleaved,
    process,
    tool,
    two_cores,
    wait_for,
)

VS_HAPROXY = Figure("gateway.vs_haproxy", "ratio", 0.8, "higher")
FIGURES = (VS_HAPROXY,)
# Many short rounds: what others do on the machine for a while spoils a few of them, and the median drops those.
_ROUNDS = 16
_SECONDS = 1
_CONNECTIONS = 16
TOKEN = "5f1d0c3b9a8e7f6d5c4b3a2918070605f1d0c3b9a8e7f6d5c4b3a29180706050"

COMMON = """
global
  nbthread 1
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
"""
_STUB = """
frontend stub
  bind unix@{socket}
  http-request return status 200 content-type application/json file {answer}
"""
_PEER = """
frontend peer
  bind 127.0.0.1:{port}
  acl known req.hdr(authorization) -m str "Bearer {token}"
  http-request deny deny_status 401 unless known
  http-request replace-path /api/predict/stub(.*) /\\1
  option forwardfor
  default_backend replicas
backend replicas
  server stub unix@{socket}
"""
_LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {token}"
wrk.body = [==[{body}]==]
"""
# A gateway may remember what it has read; here no two requests are alike.
_LUA_UNLIKE = """
local before, after, n = "", "", 0
init = function()
  wrk.headers["X-Request-Id"] = "@"
  local text = wrk.format("POST", nil, nil, [==[{body}]==])
  before, after = text:match("^(.-X%-Request%-Id: )@(.*)$")
end
request = function()
  n = n + 1
  return before .. n .. after
end
"""


def run() -> Sequence[Entry]:
    haproxy, wrk, _ = tool("haproxy"), tool("wrk"), tool("taskset")
    server, load = two_cores()
    with folder() as at:
        stub = at / "stub.sock"
        body = one_kilobyte()
        (at / "answer.json").write_text(body)
        (at / "post.lua").write_text(_LUA.format(token=TOKEN, body=body))
        unlike_script = (_LUA + _LUA_UNLIKE).format(token=TOKEN, body=body)
        (at / "unlike.lua").write_text(unlike_script)
        peer_port, own_port = free_port(), free_port()
        (at / "stub.cfg").write_text(COMMON + _STUB.format(socket=stub, answer=at / "answer.json"))
        (at / "peer.cfg").write_text(COMMON + _PEER.format(port=peer_port, token=TOKEN, socket=stub))
        own = [sys.executable, "-m", "tests.bench.gateway_under_test", str(at / "h"), str(own_port), str(stub), TOKEN]
        with (
            process([haproxy, "-f", str(at / "stub.cfg")], core=load),
            process([haproxy, "-f", str(at / "peer.cfg")], core=server) as peer_pid,
            process(own, core=server, env={"PYTHONPATH": str(ROOT)}) as own_pid,
        ):
            wait_for(
                lambda: stub.exists() and answers(peer_port) and answers(own_port), 15, "the servers did not start"
            )
            side = {own_port: own_pid, peer_port: peer_pid}
            cpu: dict[int, list[float]] = {own_port: [], peer_port: []}

            def measure(port: int, script: str = "post.lua") -> float:
                before = _cpu_ns(side[port])
                rate, count = _load(wrk, load, port, at / script)
                cpu[port].append((_cpu_ns(side[port]) - before) / count / 1e3)
                return rate

            measure(own_port), measure(peer_port)  # warm
            cpu = {own_port: [], peer_port: []}
            ours, theirs = interleaved([lambda: measure(own_port), lambda: measure(peer_port)], _ROUNDS)
            user = {port: _user_share(pid) for port, pid in side.items()}
            alike_cpu, cpu = cpu, {own_port: [], peer_port: []}
            unlike = interleaved(
                [lambda: measure(own_port, "unlike.lua"), lambda: measure(peer_port, "unlike.lua")], _ROUNDS // 2
            )
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [
        VS_HAPROXY.medians(
            ratios,
            gateway_rps=statistics.median(ours),
            haproxy_rps=statistics.median(theirs),
            gateway_cpu_us=round(statistics.median(alike_cpu[own_port]), 2),
            gateway_user_share=round(user[own_port], 2),
            haproxy_cpu_us=round(statistics.median(alike_cpu[peer_port]), 2),
            haproxy_user_share=round(user[peer_port], 2),
            # Of CPU time alone: what others do on the machine matters less to it.
            vs_haproxy_cpu=_ratio(alike_cpu[peer_port], alike_cpu[own_port]),
            # Each request with a header of its own, such as a trace's: nothing is known from the one before.
            unlike_heads_vs_haproxy=_ratio(*unlike),
            unlike_heads_vs_haproxy_cpu=_ratio(cpu[peer_port], cpu[own_port]),
            haproxy=_version(haproxy),
            connections=_CONNECTIONS,
            seconds=_SECONDS,
            order="ABBA",
            server_core=server,
            load_core=load,
        )
    ]


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


def one_kilobyte() -> str:
    row = json.dumps({"instances": [[i / 64 for i in range(64)]]})
    return (row + " " * 1024)[:1024]


def _load(wrk: str, core: int, port: int, script: Path) -> tuple[float, int]:
    """Requests a second, and how many there were. Any answer but 2xx makes the round worthless."""
    argv = ["taskset", "-c", str(core), wrk, "-t1", f"-c{_CONNECTIONS}", f"-d{_SECONDS}s", "-s", str(script)]
    out = subprocess.run(
        [*argv, f"http://127.0.0.1:{port}/api/predict/stub"], capture_output=True, text=True, check=True
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise Unmeasurable(f"port {port} answered with errors: {out}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    count = re.search(r"(\d+) requests in", out)
    if rate is None or count is None:
        raise Unmeasurable(f"wrk said: {out}")
    return float(rate[1]), int(count[1])


def _cpu_ns(pid: int) -> int:
    """What all threads of the process, which `taskset` has become by exec, have had of a CPU."""
    return sum(int(one.read_text().split()[0]) for one in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _user_share(pid: int) -> float:
    """The part of its CPU time outside of the kernel, since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return user / max(user + system, 1)


def _version(haproxy: str) -> str:
    return subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
