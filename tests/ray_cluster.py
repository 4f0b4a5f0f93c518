"""A Ray cluster on this machine, and a platform on it: each node a host of its own (a network namespace on a bridge)
where root allows that, else several raylets on one host.

The head is a host of its own that takes no work, on which the platform runs too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from tests import engines
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.home import Home
from modelworks.runtime.local import kill_all
from modelworks.supervisor.procfs import pids

needed = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
RAY = Path(sys.executable).with_name("ray")
# As docs/cluster.md has them: a node that is cut off is given up after some 5 s, by default after 65.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
# How long whoever starts a node, and the node itself, wait for its parts: 30 s each by default, on a busy machine too.
_PATIENT = {
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_agent_register_timeout_ms": "180000",
    "RAY_worker_register_timeout_seconds": "180",
    "RAY_NUM_REDIS_GET_RETRIES": "100",  # each 2 s, for a head
}
_LOOPBACK = "127.0.0.1 localhost\n::1 localhost\n"
PATIENCE = 240.0  # of a machine that has other things to do; idle, a cluster starts in fifteen seconds
_AGAIN = 3  # A raylet ends when its helpers need more than 15 s, which nothing changes.
_STORE = 80_000_000  # bytes of Ray's own object store, of which nothing is needed


@dataclass
class Host:
    """One node. ``namespace`` is its network, None where it shares that of this machine."""

    name: str
    address: str
    folder: Path
    namespace: str | None = None
    link: str = ""
    cpus: int = 1

    @property
    def home(self) -> Home:
        return Home(self.folder / "agent")

    def command(self, *arguments: str) -> list[str]:
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        return [*inside, *arguments]

    def pids(self) -> list[int]:
        """All processes of the host: those of its network, or those that name its folder."""
        return within(self.namespace) if self.namespace else naming(self.folder)

    def cut(self) -> None:
        """No packet from or to it any more, until ``heal``."""
        subprocess.run(["ip", "link", "set", self.link, "down"], check=True)

    def heal(self) -> None:
        subprocess.run(["ip", "link", "set", self.link, "up"], check=True)


def within(namespace: str) -> list[int]:
    """Processes whose network it is. By no `ip`: that is slow, and starting it would race in a thread with tests that
    change this process's environment."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # the network is gone
        own = Path("/run/netns", namespace).stat()
        for pid in pids():
            with contextlib.suppress(OSError):  # ended meanwhile
                if os.path.samestat(own, os.stat(f"/proc/{pid}/ns/net")):
                    found.append(pid)
    return found


def naming(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found, needle = [], os.fsencode(folder)
    for pid in pids():
        with contextlib.suppress(OSError):  # ended meanwhile
            if needle in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != os.getpid():
                found.append(pid)
    return found


def isolated() -> bool:
    """Whether hosts may have networks of their own."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@dataclass
class RayCluster:
    """``hosts`` take work; the head at ``address`` does not."""

    folder: Path
    address: str
    port: int
    hosts: list[Host]
    token: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever starts Ray or joins it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MW_", "RAY_"))}
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0", **HEALTH}
        return {**kept, **own, **_PATIENT}

    def start(self) -> None:
        """All at once: nodes wait for their head."""
        nodes = [(partial(self.begin, host), partial(self.kill_raylet, host)) for host in self.hosts]
        self._start((self.begin_head, self.kill_head), *nodes)

    def begin_head(self) -> subprocess.Popen[str]:
        head = [
            *(str(RAY), "start", "--head", "--node-ip-address", self.address, "--port", str(self.port)),
            *("--num-cpus", "0", "--include-dashboard=false", *self._common(self.folder / "head")),
        ]
        return _hurry(self._spawn(head, {}))

    def begin(self, host: Host) -> subprocess.Popen[str]:
        """A node is about to join."""
        node = [
            *(str(RAY), "start", "--address", f"{self.address}:{self.port}", "--node-ip-address", host.address),
            *("--num-cpus", str(host.cpus), "--memory", str(3 << 30), *self._common(host.folder / "ray")),
        ]
        own = {"MW_NODE_NAME": host.name, "MW_AGENT_HOME": str(host.home.root)}
        return _hurry(self._spawn(host.command(*node), own))

    def join(self, host: Host) -> None:
        self._start((partial(self.begin, host), partial(self.kill_raylet, host)))

    def run(self, program: str) -> subprocess.Popen[str]:
        """A driver of somebody else's on the cluster, beside its head."""
        prelude = (
            f"import ray\nray.init(address='{self.address}:{self.port}', log_to_driver=False, namespace='other')\n"
        )
        return self._spawn([sys.executable, "-c", prelude + program], {})

    def drain(self, host: Host, seconds: float) -> None:
        """As a cloud's spot notice that Ray knows of: the node goes in so long."""
        program = f"""
import time
from ray.core.generated import autoscaler_pb2
(node,) = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeName"] == "{host.address}"]
client = ray._raylet.GcsClient(address="{self.address}:{self.port}")
reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
accepted, why = client.drain_node(node, reason, "a spot notice", int((time.time() + {seconds}) * 1000))
assert accepted, why
"""
        done = self.run(program)
        assert done.wait(PATIENCE) == 0, done.log.read_text()  # type: ignore[attr-defined]

    def kill_head(self) -> None:
        """As when its machine fails. Nodes then end by themselves."""
        _kill(naming(self.folder / "head"))

    def kill_raylet(self, host: Host) -> None:
        """Ray's own processes on a node; what else runs there goes on."""
        _kill(naming(host.folder / "ray"))

    def kill_raylets(self) -> None:
        for host in self.hosts:
            self.kill_raylet(host)

    def stop(self) -> None:
        """Nothing of it is left: no process, no network, no file."""
        for host in self.hosts:
            kill_all(host.home, grace=0.0)
            _kill(host.pids())
        _kill(naming(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)
        for host in self.hosts:
            shutil.rmtree(host.home.run, ignore_errors=True)

    def _common(self, folder: Path) -> list[str]:
        folder.mkdir(exist_ok=True)
        return [
            *("--temp-dir", str(folder), "--object-store-memory", str(_STORE)),
            *("--disable-usage-stats", "--include-log-monitor=false"),
        ]

    def _spawn(self, command: list[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
        path = self.folder / f"{secrets.token_hex(4)}.log"
        with path.open("w") as log:
            # A file and no pipe: what Ray leaves running would hold it open.
            started = subprocess.Popen(
                command, env={**self.environment, **env}, stdout=log, stderr=log, text=True, start_new_session=True
            )
        started.log = path  # type: ignore[attr-defined]
        return started

    def _start(self, *parts: tuple[Callable[[], subprocess.Popen[str]], Callable[[], None]]) -> None:
        """Each is a way to begin and one to clear away what did not become anything: who fails tries again, alone."""
        starting = [begin() for begin, _ in parts]
        for one, (begin, clear) in zip(starting, parts, strict=True):
            tried, code = one, one.wait(PATIENCE)
            for _ in range(_AGAIN):
                if code:
                    clear()
                    tried = begin()
                    code = tried.wait(PATIENCE)
            text = tried.log.read_text()  # type: ignore[attr-defined]
            assert code == 0, f"{tried.args!r}: {code}\n{text[-3000:]}"
        for pid in naming(self.folder):
            _be_nice(pid, 0)


def _hurry(started: subprocess.Popen[str]) -> subprocess.Popen[str]:
    _be_nice(started.pid, -15)
    return started


def _be_nice(pid: int, niceness: int) -> None:
    """To all of its session, as which the kernel weighs it against others. In vain without root or such a kernel."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def _kill(numbers: list[int]) -> None:
    for pid in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    poll(lambda: not any(_alive(pid) for pid in numbers))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def cluster(nodes: int = 3, cpus: int = 1) -> Iterator[RayCluster]:
    """A running cluster that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mwr-"))
    folder.chmod(0o711)
    with networks(nodes) if isolated() else _one_network(nodes) as (address, places):
        hosts = []
        for number, (name, namespace, link) in enumerate(places, 1):
            own = folder / f"n{number}"
            own.mkdir(mode=0o711)
            hosts.append(Host(f"n{number}", name, own, namespace, link, cpus))
        one = RayCluster(folder, address, free_port(address), hosts)
        try:
            one.start()
            yield one
        finally:
            one.stop()


Places = list[tuple[str, str | None, str]]


@contextmanager
def networks(nodes: int) -> Iterator[tuple[str, Places]]:
    """A bridge with so many hosts at it: its own address; of each host the address, the namespace, the outer link."""
    tag = secrets.token_hex(3)
    bridge = f"mwb{tag}"
    net = f"10.{random.randint(128, 250)}.{random.randint(0, 254)}"
    _ip("link", "add", bridge, "type", "bridge")
    made: Places = []
    try:
        _ip("addr", "add", f"{net}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number in range(1, nodes + 1):
            space, link = f"mwn{tag}{number}", f"mwl{tag}{number}"
            _ip("netns", "add", space)
            made.append((f"{net}.{number}", space, link))
            # Who asks for the name of an address is not to wait for a name server that cannot be reached.
            _names(space).mkdir(parents=True)
            named = [f"{net}.254 head\n", *(f"{net}.{n} n{n}\n" for n in range(1, nodes + 1))]
            (_names(space) / "hosts").write_text("".join(named) + _LOOPBACK)
            (_names(space) / "resolv.conf").write_text("")
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", link, "master", bridge, "up")
            _ip("-n", space, "addr", "add", f"{net}.{number}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "route", "add", "default", "via", f"{net}.254")
        yield f"{net}.254", made
    finally:
        for _, namespace, _ in made:
            _ip("netns", "del", str(namespace))
            shutil.rmtree(_names(str(namespace)))
        _ip("link", "del", bridge)


def _names(namespace: str) -> Path:
    """What ``ip netns exec`` puts in the place of files in /etc."""
    return Path("/etc/netns", namespace)


@contextmanager
def _one_network(nodes: int) -> Iterator[tuple[str, Places]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))  # sends nothing; tells the address that this machine uses
        address = str(asking.getsockname()[0])
    yield address, [(address, None, "")] * nodes


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class ClusterMw(Mw):
    """`mw` of a platform on the cluster; its doors are where the nodes reach them."""

    ray: RayCluster
    port: int
    s3_port: int

    @property
    def environment(self) -> dict[str, str]:
        at = self.ray.address
        own = {
            "MW_HOST": at,
            "MW_PORT": str(self.port),
            "MW_S3_PORT": str(self.s3_port),
            "MW_ADVERTISE_URL": f"http://{at}:{self.port}",
            "MW_ADVERTISE_S3_URL": f"http://{at}:{self.s3_port}",
            "MW_RAY_ADDRESS": f"{at}:{self.ray.port}",
        }
        return {**super().environment, **self.ray.environment, **own}


@contextmanager
def platform(ray: RayCluster) -> Iterator[ClusterMw]:
    """A home on the cluster that is down and gone afterwards."""
    with engines.temporary_home() as home:
        mw = ClusterMw(home, ray, free_port(ray.address), free_port(ray.address))
        try:
            mw.ok("up", "--detach")
            yield mw
        finally:
            mw("down", "--grace", "2")
