"""What a hostile workload tries, for real."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import python, wait_ended

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.run import File, Listen, RunReason, VolumeMount
from modelworks.runtime import sandbox
from modelworks.runtime.local import kill_all


@pytest.fixture
def agent(home: Home) -> Iterator[InProcessAgent]:
    if not sandbox.probe().enabled:
        pytest.skip(sandbox.probe().note)
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)


class Private:
    """A socket of the platform's own that answers whoever may ask it, and counts them."""

    def __init__(self, path: Path) -> None:
        self.calls = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            self.calls += 1
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_a_link_in_place_of_its_socket_reaches_nobody(agent: InProcessAgent, home: Home) -> None:
    private = Private(home.run / "agent.sock")
    program = f"import os,time; os.symlink({str(home.run / 'agent.sock')!r}, os.environ['MW_SOCKET']); time.sleep(600)"
    run = python(0, program, listen=Listen(period=0.05, startup=1.0))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.reason is RunReason.NOT_READY
    assert "cannot be connected to" in seen.message
    assert private.calls == 0


@pytest.mark.parametrize(
    "target", ["/opt/modelworks", "/opt/modelworks/modelworks/runtime", "/usr/lib", "/ml", "python"]
)
def test_a_volume_cannot_replace_what_starts_the_sandbox(agent: InProcessAgent, home: Home, target: str) -> None:
    volume = home.volumes / "v"
    volume.mkdir(parents=True)
    path = str(sandbox.base_python().parent.parent) if target == "python" else target
    if path == "/usr":
        pytest.skip("this Python is the system's")
    mounts = (VolumeMount(name="v", source=str(volume), path=path),)
    run = python(0, "print('in')", volumes=mounts, files=(File(path="/ml/input/config/x.json", content="{}"),))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.reason is RunReason.START_FAILED
    assert f"volume v cannot be at {path}" in seen.message


def test_volumes_do_not_lie_in_each_other(agent: InProcessAgent, home: Home) -> None:
    outer, inner = home.volumes / "outer", home.volumes / "inner"
    for path in (outer, inner):
        path.mkdir(parents=True)
    (outer / "sub").symlink_to("../../usr")
    mounts = (
        VolumeMount(name="outer", source=str(outer), path="/mnt/x"),
        VolumeMount(name="inner", source=str(inner), path="/mnt/x/sub"),
    )
    run = python(0, "print('in')", volumes=mounts)
    agent.ensure(run)
    assert "cannot be at" in wait_ended(agent, run.key).message


@pytest.mark.parametrize("place", ["secrets", "", "..", "link"])
def test_a_volume_does_not_show_the_home(agent: InProcessAgent, home: Home, tmp_path: Path, place: str) -> None:
    source = home.root / place
    if place == "link":
        source = tmp_path / "link"
        source.symlink_to(home.root)
    elif place:
        source.mkdir(parents=True, exist_ok=True)
    run = python(0, "print('in')", volumes=(VolumeMount(name="v", source=str(source), path="/mnt/v"),))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.reason is RunReason.START_FAILED
    assert "the platform's own files" in seen.message


def test_a_missing_volume_is_told(agent: InProcessAgent, tmp_path: Path) -> None:
    run = python(0, "print('in')", volumes=(VolumeMount(name="nfs", source=str(tmp_path / "gone"), path="/mnt/v"),))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.reason is RunReason.START_FAILED
    assert f"volume nfs: {tmp_path / 'gone'} is not a directory" in seen.message


def test_nothing_of_the_host_is_within_reach(agent: InProcessAgent, home: Home) -> None:
    home.secrets.mkdir(exist_ok=True)
    (home.secrets / "master.key").write_text("secret")
    program = f"""
import ctypes, os, socket, subprocess
ROOT = {os.geteuid() == 0}
def refused(what, call):
    try:
        call()
    except OSError:
        return
    print("REACHED", what)
libc = ctypes.CDLL(None, use_errno=True)
def check(value):
    if value != 0:
        raise OSError(ctypes.get_errno(), "refused")
refused("secrets", lambda: open({str(home.secrets / "master.key")!r}))
refused("home", lambda: os.listdir({str(home.root)!r}))
refused("shadow", lambda: open("/etc/shadow"))
refused("mount", lambda: check(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None)))
refused("umount", lambda: check(libc.umount2(b"/mnt/output", 2)))
refused("ptrace", lambda: check(libc.ptrace(16, 1, 0, 0))) if ROOT else None  # rootless, init is its own user's
refused("trace all", lambda: os.kill(1, 0)) if ROOT else None
refused("mknod", lambda: os.mknod("/tmp/disk", 0o060600, os.makedev(8, 0)))
refused("write /usr", lambda: open("/usr/evil", "w"))
refused("write /etc", lambda: open("/etc/evil", "w"))
refused("write package", lambda: open("/opt/modelworks/modelworks/evil", "w"))
refused("root", lambda: os.setuid(0))
refused("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
refused("sysctl", lambda: open("/proc/sys/kernel/core_pattern", "w"))
refused("sysrq", lambda: open("/proc/sysrq-trigger", "w"))
for line in open("/proc/self/status"):
    if line.startswith(("CapEff", "CapPrm", "CapAmb")) and int(line.split()[1], 16):
        print("REACHED", line.strip())
    if line.startswith("NoNewPrivs") and line.split()[1] != "1":
        print("REACHED", line.strip())
seen = sorted(int(p) for p in os.listdir("/proc") if p.isdigit())
if len(seen) > 8:
    print("REACHED processes", seen)
if ROOT:
    refused("environ of init", lambda: open("/proc/1/environ").read())
def new_namespaces():
    check(libc.unshare(0x10000000 | 0x20000))
    check(libc.umount2(b"/usr", 2))
refused("unmount in new namespaces", new_namespaces)
print("DEV", sorted(os.listdir("/dev")))
print("ROOT", sorted(os.listdir("/")))
print("done")
"""
    run = python(0, program)
    agent.ensure(run)
    wait_ended(agent, run.key)
    log = agent.log(run.key).decode()
    assert log.endswith("done\n"), log
    assert "REACHED" not in log, log
