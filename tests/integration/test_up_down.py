"""The supervisor over stand-in processes: adoption, restarts, refusals, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.supervisor import checks, cluster, logs, policy
from modelworks.supervisor.child import Child
from modelworks.supervisor.cli import main
from modelworks.supervisor.handover import Handovers
from modelworks.supervisor.policy import MOST_DRAINING, Need
from modelworks.supervisor.procfs import Identity, pids
from modelworks.supervisor.state import Stage, State
from modelworks.supervisor.unit import Unit

FAKE = Path(__file__).parents[1] / "fake_platform.py"
CHILDREN = {"postgres", "controller", "agent", "gateway"}


class Platform:
    """The stand-in platform of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*arguments), capture_output=True, text=True, timeout=60, check=False)

    def argv(self, verb: str, *flags: str) -> list[str]:
        return [sys.executable, str(FAKE), verb, "--home", str(self.home.root), *flags]

    def up(self, *flags: str) -> dict[str, Any]:
        done = self.run("up", "--detach", "--json", *(flags or ("--port", "0")))
        assert done.returncode == 0, done.stderr
        endpoint: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return endpoint

    def state(self) -> State:
        return State.load(self.home)

    def identities(self) -> dict[str, Identity]:
        return {p.unit.name: p.identity for p in self.state().living() if p.identity}

    def kill_supervisor(self) -> None:
        supervisor = self.state().supervisor
        assert supervisor is not None
        kill(supervisor)


def kill(identity: Identity) -> None:
    pidfd = identity.pidfd()
    assert pidfd is not None
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    until(lambda: not identity.alive())
    os.close(pidfd)


def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def answer(url: str) -> int:
    with urllib.request.urlopen(f"{url}/healthz", timeout=10) as response:
        return int(json.load(response)["pid"])


def named_in(home: Home) -> list[int]:
    """Processes whose command line names the home."""
    found = []
    for pid in pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            if str(home.root).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.fixture
def platform(home: Home) -> Iterator[Platform]:
    one = Platform(home)
    yield one
    one.run("down")
    assert not one.identities()


def test_up_answers_and_down_leaves_nothing(platform: Platform) -> None:
    endpoint = platform.up()
    started = platform.identities()
    assert set(started) == CHILDREN
    assert answer(endpoint["url"]) == started["gateway"].pid
    client = json.loads(platform.home.client.read_text())
    assert client == {"url": endpoint["url"], "api_key": "stand-in-key", "s3_url": endpoint["s3_url"]}
    assert platform.home.client.stat().st_mode & 0o777 == 0o600
    supervisor = platform.state().supervisor
    down = platform.run("down", "--grace", "7")
    assert down.returncode == 0
    assert not any(identity.alive() for identity in started.values())
    assert supervisor is not None
    assert not supervisor.alive()
    assert '/stop-all {"grace": 7.0}' in logs.path_of(platform.home, "agent").read_text()
    assert not [path for path in platform.home.root.rglob("*") if path.is_socket()]


def test_up_twice_says_so_and_down_twice_too(platform: Platform) -> None:
    first = platform.up()
    again = platform.run("up", "--detach")
    assert again.returncode == 0
    assert f"already up: {first['url']}" in again.stdout
    assert platform.run("down").stdout.splitlines()[-1] == "Modelworks is down"
    second = platform.run("down")
    assert (second.returncode, "not running" in second.stdout) == (0, True)


def test_a_port_picked_freely_is_kept(platform: Platform) -> None:
    first = platform.up("--port", "0")
    platform.run("down")
    assert platform.up("--detach")["url"] == first["url"]


def test_two_ups_at_once_start_one_platform(platform: Platform) -> None:
    argv = platform.argv("up", "--detach", "--json", "--port", "0")
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    endpoints = [json.loads(one.communicate(timeout=60)[0].splitlines()[-1]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert endpoints[0]["url"] == endpoints[1]["url"]


def test_a_new_supervisor_adopts_what_the_killed_one_left(platform: Platform) -> None:
    endpoint = platform.up()
    before = platform.identities()
    platform.kill_supervisor()
    assert answer(endpoint["url"]) == before["gateway"].pid
    assert platform.run("status").returncode == 4
    assert platform.up("--port", "0")["url"] == endpoint["url"]
    assert platform.identities() == before
    assert platform.run("status").returncode == 0
    # An adopted process is watched, and its successor gets the same socket.
    kill(before["gateway"])
    until(lambda: platform.identities().get("gateway") not in (None, before["gateway"]))
    assert answer(endpoint["url"]) == platform.identities()["gateway"].pid


def test_only_the_dead_are_started_again_after_the_supervisor_was_killed(platform: Platform) -> None:
    platform.up()
    before = platform.identities()
    platform.kill_supervisor()
    kill(before["controller"])
    kill(before["gateway"])
    platform.up("--detach")
    after = platform.identities()
    assert set(after) == CHILDREN
    assert {name for name in CHILDREN if after[name] == before[name]} == {"postgres", "agent"}


@pytest.mark.parametrize("name", sorted(CHILDREN))
def test_a_killed_process_is_started_again(platform: Platform, name: str) -> None:
    platform.up()
    before = platform.identities()[name]
    kill(before)
    until(lambda: (p := platform.state().processes[name]).identity != before and p.phase == "ready")
    process = platform.state().processes[name]
    assert (process.restarts, process.last_exit) == (1, "killed by SIGKILL")
    status = json.loads(platform.run("status", "--json").stdout)
    assert status["state"] == "up"


def test_nothing_where_up_is_typed_passes_for_a_module(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.agent / "runs").mkdir(parents=True)
    (tmp_path / "modelworks.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert cluster.leave_machine(home) == []


def test_the_door_stays_open_while_a_gateway_drains(platform: Platform) -> None:
    busy = platform.home.root / "busy-gateway"
    busy.touch()
    url = platform.up()["url"]
    old = platform.identities()["gateway"]
    os.kill(old.pid, signal.SIGTERM)
    until(lambda: (p := platform.state().processes["gateway"]).identity != old and p.phase == "ready")
    new = platform.identities()["gateway"]
    assert (answer(url), old.alive()) == (new.pid, True)
    assert [process.identity for process in platform.state().draining] == [old]
    status = json.loads(platform.run("status", "--json").stdout)
    assert status["state"] == "up"
    assert f"gateway (pid {old.pid}) answers what it had begun, and then ends" in status["notes"]
    # Nobody stands by for it any more: the next supervisor waits for its end, and takes its successor over.
    os.kill(new.pid, signal.SIGSTOP)
    platform.kill_supervisor()
    os.kill(new.pid, signal.SIGCONT)
    platform.up("--detach")
    until(lambda: not platform.state().draining)
    assert not old.alive()
    assert platform.identities()["gateway"] == new
    assert answer(url) == new.pid
    busy.unlink()


def test_of_too_many_that_drain_the_first_is_hurried_up(home: Home) -> None:
    """And the next one is not replaced before that has ended: no more processes may share a port."""
    home.run.mkdir(parents=True)
    watched: dict[int, Callable[[], object]] = {}
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        handovers = Handovers(home, watched.__setitem__, watched.pop, said.append, lambda: None)
        control = stack.enter_context(socket.socket(socket.AF_UNIX))
        control.bind(str(home.run / "gateway.sock"))
        control.listen()
        children, lines = [], []
        for _ in range(MOST_DRAINING + 1):
            popen = stack.enter_context(subprocess.Popen(["sleep", "600"]))
            stack.callback(popen.kill)
            child = Child(Unit("gateway", ()))
            child.running(Identity(os.getpid(), 0), os.pidfd_open(popen.pid), 1.0, popen)
            child.ready(2.0)
            assert handovers.stand_by(child)
            lines.append(stack.enter_context(control.accept()[0]))
            assert lines[-1].recv(64) == b"stand-by\n"
            watched[child.pidfd or 0] = lambda: None
            children.append(child)
        first = children[0].popen
        assert first is not None
        for child, line in zip(children, lines, strict=True):
            assert child.standby is not None
            line.sendall(b"draining\n")
            watched[child.standby.fileno()]()
            handovers.turn(children, 2.1)
        assert len(handovers.children) == MOST_DRAINING
        assert [child.seen.running for child in children] == [False] * MOST_DRAINING + [True]
        assert lines[0].recv(1) == b""
        first.kill()
        first.wait()
        watched[handovers.children[0].pidfd or 0]()
        handovers.turn(children, 2.1)
        assert not children[-1].seen.running
        assert policy.plan({"gateway": Need("gateway")}, {"gateway": children[-1].seen}, 2.1).start == ("gateway",)
        assert said[-2:] == [
            f"gateway (pid {os.getpid()}) has drained: killed by SIGKILL",
            f"gateway (pid {os.getpid()}) drains; another one starts",
        ]
        for one in handovers.children:
            assert one.pidfd is not None
            os.close(one.pidfd)
            handovers.withdraw(one)


@pytest.mark.parametrize("after", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
def test_a_supervisor_killed_while_it_starts_leaves_nothing_unknown(platform: Platform, after: float) -> None:
    argv = platform.argv("up", "--port", "0")
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True)
    until(lambda: platform.home.supervisor_state.exists() or process.poll() is not None)
    time.sleep(after)  # any moment will do
    process.kill()
    process.wait()
    if after > 0.2:
        platform.up()
    platform.run("down")
    until(lambda: not named_in(platform.home))


def test_down_works_without_supervisor_and_agent_and_on_the_deaf(platform: Platform) -> None:
    (platform.home.root / "deaf-controller").touch()
    platform.up()
    before = platform.identities()
    platform.kill_supervisor()
    kill(before["agent"])
    down = platform.run("down")
    assert down.returncode == 0
    assert "controller does not stop after 2 s: killed" in down.stdout
    assert not any(identity.alive() for identity in before.values())


def test_who_starts_workloads_goes_before_them(platform: Platform) -> None:
    """A controller that outlives them would start a stopped replica again, which nobody would stop."""
    platform.up()
    assert platform.run("down").returncode == 0
    told = logs.path_of(platform.home, "supervisor").read_text()
    assert told.index("controller stopped") < told.index("workloads stopped") < told.index("agent stopped")


def test_ctrl_c_in_the_foreground_stops_everything(platform: Platform) -> None:
    process = subprocess.Popen(platform.argv("up", "--port", "0"), stdout=subprocess.PIPE, text=True)
    until(lambda: platform.state().stage is Stage.UP)
    started = platform.identities()
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert told.splitlines()[-1] == "Modelworks is down"
    assert not any(identity.alive() for identity in started.values())


def test_what_fails_is_named_with_its_last_words_and_nothing_runs_on(platform: Platform) -> None:
    (platform.home.root / "fail-controller").write_text("the moon is in the wrong phase")
    done = platform.run("up", "--detach", "--port", "0")
    assert done.returncode == 1
    assert "controller ended 3 times (exit code 7)" in done.stderr
    assert "| the moon is in the wrong phase" in done.stderr
    assert not platform.identities()
    assert platform.run("status").returncode == 3


def test_a_failed_preparation_is_told_with_its_remedy(platform: Platform) -> None:
    (platform.home.root / "fail-prepare").write_text("no engine")
    done = platform.run("up", "--detach", "--port", "0")
    assert (done.returncode, done.stderr.splitlines()) == (1, ["error: no engine", "try: remove the file"])


def test_a_taken_port_is_named_with_who_has_it(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = platform.run("up", "--detach", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} is taken by " in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "--port 0" in done.stderr
    assert not platform.identities()


def test_a_state_file_of_another_boot_means_nothing(platform: Platform) -> None:
    platform.up()
    before = platform.identities()
    saved = json.loads(platform.home.supervisor_state.read_text())
    platform.run("down")
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        identity = Identity.of(bystander.pid)
        assert identity is not None
        for boot, ticks in (("another-boot", identity.start_ticks), (saved["boot_id"], identity.start_ticks - 1)):
            for process in saved["processes"].values():
                process["identity"] = {"pid": bystander.pid, "start_ticks": ticks}
            platform.home.supervisor_state.write_text(json.dumps(saved | {"boot_id": boot}))
            assert "not running" in platform.run("down").stdout
            platform.home.supervisor_state.write_text(json.dumps(saved | {"boot_id": boot}))
            platform.up("--detach")
            assert not set(platform.identities().values()) & {identity, *before.values()}
            platform.run("down")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_torn_state_file_is_no_state(platform: Platform) -> None:
    checks.make_layout(platform.home)
    platform.home.supervisor_state.write_text('{"version": 1, "stage"')
    assert platform.run("status").returncode == 3
    platform.up()


def test_a_home_that_is_a_file(home: Home) -> None:
    (home.root / "file").touch()
    done = Platform(Home(home.root / "file")).run("up", "--detach")
    assert done.returncode == 1
    assert f"{home.root / 'file'} is a file where a directory is needed" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
@pytest.mark.parametrize("verb", ["up", "down", "status"])
def test_a_home_of_somebody_else(home: Home, verb: str) -> None:
    checks.make_layout(home)
    errors = home.root / "errors"
    pid = os.fork()
    if pid == 0:
        # A fork, since that user may not be able to run this Python.
        with errors.open("w", buffering=1) as told, contextlib.redirect_stderr(told):
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os._exit(main([verb, "--home", str(home.root)]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert str(home.root) in errors.read_text()
    assert "is not accessible to the user" in errors.read_text()


def test_a_full_disk_is_named_by_its_mount(home: Home) -> None:
    with pytest.raises(SetupFailed, match=r"the disk at / is full|the disk at /\S+ is full"):
        checks.check_disk(home, needed=1 << 62)


def test_a_log_is_cut_while_its_writer_goes_on(home: Home) -> None:
    checks.make_layout(home)
    fd = logs.open_log(home, "x")
    path = logs.path_of(home, "x")
    for number in range(5):
        os.write(fd, f"{number}".encode() * 100 + b"\n")
        assert logs.rotate(path, limit=100, kept=3)
        assert not logs.rotate(path, limit=100, kept=3)
    os.write(fd, b"last\n")
    os.close(fd)
    assert logs.tail(path) == ["last"]
    assert [path.with_name(f"x.log.{n}").read_text()[0] for n in (1, 2, 3)] == ["4", "3", "2"]
    assert not path.with_name("x.log.4").exists()
