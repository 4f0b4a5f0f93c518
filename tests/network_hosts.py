"""Hosts with networks of their own: network namespaces on one bridge, agents in them, firewalls between them."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from tests import engines
from tests.agents import AgentProcess, running_agent

from modelworks.kernel.run import Peer, Rendezvous

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nft"),
    reason="network namespaces and firewalls need root, ip and nft",
)
INTERFACE = "eth0"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)


@dataclass(frozen=True)
class Host:
    """A network namespace with one interface. ``name`` is also its node's."""

    name: str
    namespace: str
    address: str

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *command]

    def run(self, *command: str) -> None:
        _run(*self.command(*command))

    def only_web_ports(self) -> None:
        """The classic: a firewall that drops every packet that comes in, but those to ports 80 and 443."""
        self.run("nft", "add table inet filter")
        self.run("nft", "add chain inet filter input { type filter hook input priority 0; policy drop; }")
        for rule in ('iif "lo" accept', "ct state established,related accept", "tcp dport { 80, 443 } accept"):
            self.run("nft", f"add rule inet filter input {rule}")

    def reject(self, port: int) -> None:
        """A firewall that answers for the port: nobody here."""
        self.run("nft", "add table inet filter")
        self.run("nft", "add chain inet filter input { type filter hook input priority 0; }")
        self.run("nft", f"add rule inet filter input tcp dport {port} reject with tcp reset")

    def no_way_to(self, other: Host) -> None:
        self.run("ip", "route", "add", "unreachable", f"{other.address}/32")

    @contextmanager
    def listening(self, port: int, program: str) -> Iterator[None]:
        """Another program has the port. ``program`` is Python: what it does with an accepted ``connection``."""
        source = (
            "import socket, time\n"
            f"server = socket.create_server(('0.0.0.0', {port}))\nprint('listens', flush=True)\nheld = []\n"
            f"while True:\n    connection, _ = server.accept()\n    held.append(connection)\n    {program}\n"
        )
        command = self.command(sys.executable, "-c", source)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "listens\n"
                yield
            finally:
                process.kill()


class HostAgent(AgentProcess):
    """An agent on a host."""

    host: Host

    def spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.host.command(*self.command()), env=self.env)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts that reach each other, and nothing else; gone afterwards."""
    token = secrets.token_hex(3)
    switch = f"mw{token}s"
    made = [Host(chr(ord("a") + n), f"mw{token}{n}", f"10.77.0.{n + 1}") for n in range(count)]
    with ExitStack() as stack:
        for namespace in (switch, *(host.namespace for host in made)):
            _run("ip", "netns", "add", namespace)
            stack.callback(_run, "ip", "netns", "del", namespace)
        _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "br0", "up")
        for number, host in enumerate(made):
            port, inside = f"p{number}", ("-n", host.namespace)
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns",
                 host.namespace)  # fmt: skip
            _run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            _run("ip", *inside, "link", "set", "lo", "up")
            _run("ip", *inside, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            _run("ip", *inside, "link", "set", INTERFACE, "up")
        yield made


@contextmanager
def agents_on(places: list[Host]) -> Iterator[list[AgentProcess]]:
    """A real agent on each host, with a home of its own."""
    with ExitStack() as stack:
        started = []
        for host in places:
            home = stack.enter_context(engines.temporary_home())
            on_host = type("OnHost", (HostAgent,), {"host": host})
            started.append(stack.enter_context(running_agent(home, on_host, MW_NODE_NAME=host.name)))
        yield started


def rendezvous(places: list[Host], rank: int, port: int = 29_512, timeout: float = 30.0) -> Rendezvous:
    peers = tuple(
        Peer(rank=n, node=host.name, address=host.address, port=port + n, interface=INTERFACE)
        for n, host in enumerate(places)
    )
    return Rendezvous(rank=rank, peers=peers, nonce=f"nonce-{port}", timeout=timeout)
