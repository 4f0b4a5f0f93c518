"""Before user code: replicas on hosts of their own find each other and start together, or say which pair cannot."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.agents import AgentProcess, observe, poll, run_spec, running_agent, wait_ended, wait_for, wait_log
from tests.network_hosts import Host, agents_on, hosts, needs_root, rendezvous

from modelworks.home import Home
from modelworks.kernel.run import Input, Peer, Rendezvous, RunObservation, RunPhase, RunReason, RunSpec
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri

PORT = 29_512
# What a workload does first: it takes its port, as strictly as a program can.
TAKES_ITS_PORT = (
    "import os, socket\n"
    "s = socket.socket(); s.bind(('0.0.0.0', int(os.environ['OWN_PORT']))); s.listen()\n"
    "print('begun', flush=True)\nimport time; time.sleep(600)\n"
)


@pytest.fixture(scope="module")
def places() -> Iterator[list[Host]]:
    with hosts(3) as made:
        yield made


@pytest.fixture(scope="module")
def agents(places: list[Host]) -> Iterator[list[AgentProcess]]:
    with agents_on(places) as started:
        yield started


@pytest.fixture(autouse=True)
def _open_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "places" in request.fixturenames:
        for host in request.getfixturevalue("places"):
            host.run("nft", "flush", "ruleset")
            host.run("ip", "route", "flush", "type", "unreachable")


def gang(meeting: list[Rendezvous], uid: str, program: str = TAKES_ITS_PORT) -> list[RunSpec]:
    return [
        RunSpec(
            key=f"{uid}/a1/{one.rank}/0",
            workspace="default",
            kind="TrainingJob",
            name="test",
            command=("python", "-c", program),
            env={"OWN_PORT": str(one.peers[one.rank].port)},
            grace=1.0,
            rendezvous=one,
        )
        for one in meeting
    ]


def spread(places: list[Host], timeout: float = 4.0, port: int = PORT) -> list[RunSpec]:
    uid = f"g{secrets.token_hex(5)}"
    return gang([rendezvous(places, rank, port, timeout) for rank in range(len(places))], uid)


def ended(agents: list[AgentProcess], runs: list[RunSpec]) -> list[RunObservation]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda pair: wait_ended(pair[0].client, pair[1].key), zip(agents, runs, strict=True)))


def stop_all(agents: list[AgentProcess], runs: list[RunSpec]) -> None:
    for agent, run in zip(agents, runs, strict=True):
        agent.client.stop(run.key, 0.0)
    ended(agents, runs)


@needs_root
def test_replicas_on_three_hosts_start_together_with_their_ports_free(
    agents: list[AgentProcess], places: list[Host]
) -> None:
    runs = spread(places)
    for agent, run in zip(agents[:2], runs[:2], strict=True):
        agent.client.ensure(run)
    seen = wait_for(agents[0].client, runs[0].key, lambda seen: seen.phase is RunPhase.PREPARING)
    assert seen.started_at is None
    agents[2].client.ensure(runs[2])
    for agent, run in zip(agents, runs, strict=True):
        wait_log(agent.client, run.key, b"begun")
    stop_all(agents, runs)


@needs_root
def test_a_firewall_that_lets_only_web_ports_through_is_named(agents: list[AgentProcess], places: list[Host]) -> None:
    places[1].only_web_ports()
    runs = spread(places)
    for agent, run in zip(agents, runs, strict=True):
        agent.client.ensure(run)
    first = wait_ended(agents[0].client, runs[0].key)
    third = wait_ended(agents[2].client, runs[2].key)
    assert (first.reason, first.started_at) == (RunReason.PREFLIGHT_FAILED, None)
    cause = "cannot reach rank 1 (node b) at 10.77.0.2:29513: no answer in 1s; a firewall may let only some ports"
    assert first.message.startswith(f"rank 0 (node a, 10.77.0.1 on eth0) {cause}")
    assert third.message.startswith(f"rank 2 (node c, 10.77.0.3 on eth0) {cause}")
    assert any("cannot reach rank 1" in line for line in first.last_lines)
    # Rank 1 reaches everybody; it waits, until rank 0 is gone for as long as the look may take.
    assert wait_ended(agents[1].client, runs[1].key).reason is RunReason.PREFLIGHT_FAILED


@needs_root
def test_a_firewall_that_rejects_is_told_apart_from_a_replica_that_has_not_begun(
    agents: list[AgentProcess], places: list[Host]
) -> None:
    places[1].reject(PORT + 1)
    runs = spread(places[:2], timeout=2.0)
    for agent, run in zip(agents, runs, strict=False):
        agent.client.ensure(run)
    seen = wait_ended(agents[0].client, runs[0].key)
    assert "at 10.77.0.2:29513: connection refused, though that rank listens there; a firewall" in seen.message
    stop_all(agents[:2], runs)
    alone = spread(places[:2], timeout=1.0)
    agents[0].client.ensure(alone[0])
    seen = wait_ended(agents[0].client, alone[0].key)
    assert "connection refused; that rank has not begun, or a firewall" in seen.message


@needs_root
def test_a_network_without_a_way_is_told(agents: list[AgentProcess], places: list[Host]) -> None:
    places[0].no_way_to(places[1])
    runs = spread(places[:2], timeout=1.0)
    agents[0].client.ensure(runs[0])
    seen = wait_ended(agents[0].client, runs[0].key)
    assert "10.77.0.2:29513: no route to host; the nodes are not in one network" in seen.message


@needs_root
def test_a_port_that_another_program_has_is_told_with_its_name(agents: list[AgentProcess], places: list[Host]) -> None:
    runs = spread(places[:2], timeout=1.0)
    with places[0].listening(PORT, "pass"):
        agents[0].client.ensure(runs[0])
        seen = wait_ended(agents[0].client, runs[0].key)
    assert seen.reason is RunReason.PREFLIGHT_FAILED
    assert "rank 0 (node a, 10.77.0.1 on eth0): its port 29512 is taken by python" in seen.message


@needs_root
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("pass", "it accepts connections, and says nothing"),
        ("connection.sendall(b'220 smtp ready\\r\\n')", "what it answers is not a replica of this job"),
        ("connection.sendall(connection.recv(4096))", "what it answers is not a replica of this job"),
        ("connection.close()", "what it answers is not a replica of this job"),
    ],
    ids=["silent", "another protocol", "echo", "hangs up"],
)
def test_a_third_party_at_the_port_is_not_taken_for_a_replica(
    agents: list[AgentProcess], places: list[Host], program: str, said: str
) -> None:
    runs = spread(places[:2], timeout=1.0)
    with places[1].listening(PORT + 1, program):
        agents[0].client.ensure(runs[0])
        seen = wait_ended(agents[0].client, runs[0].key)
    assert f"at 10.77.0.2:29513: another program has this port: {said}" in seen.message


@needs_root
def test_replicas_of_another_attempt_at_the_port_are_strangers(agents: list[AgentProcess], places: list[Host]) -> None:
    late = gang([rendezvous(places[:2], rank, PORT, 30.0) for rank in range(2)], f"g{secrets.token_hex(5)}")
    other = [
        one.model_copy(update={"rendezvous": one.rendezvous.model_copy(update={"nonce": "other", "timeout": 1.0})})
        for one in spread(places[:2])
        if one.rendezvous is not None
    ]
    agents[1].client.ensure(late[1])
    agents[0].client.ensure(other[0])
    seen = wait_ended(agents[0].client, other[0].key)
    assert "what it answers is not a replica of this job" in seen.message
    agents[0].client.ensure(late[0])
    for agent, run in zip(agents, late, strict=False):
        wait_log(agent.client, run.key, b"begun")
    stop_all(agents[:2], late)


# On one machine, without hosts of their own.


def _free(count: int) -> int:
    """The first of so many free ports, where those of jobs are: above, the kernel gives them to whoever connects."""
    while True:
        first = random.randrange(23_000, 29_000)
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            for port in range(first, first + count):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def local(count: int, timeout: float = 10.0) -> list[RunSpec]:
    first = _free(count)
    peers = tuple(Peer(rank=n, node="here", address="127.0.0.1", port=first + n, interface="lo") for n in range(count))
    meeting = [Rendezvous(rank=n, peers=peers, nonce=f"n{first}", timeout=timeout) for n in range(count)]
    return gang(meeting, f"g{secrets.token_hex(5)}")


def test_replicas_of_one_machine_start_together(home: Home) -> None:
    runs = local(4)
    with running_agent(home) as agent:
        for run in runs:
            agent.client.ensure(run)
        for run in runs:
            wait_log(agent.client, run.key, b"begun")


def test_an_agent_that_dies_while_its_replica_waits_goes_on_where_it_was(home: Home) -> None:
    runs = local(3)
    with running_agent(home) as agent:
        for run in runs[:2]:
            agent.client.ensure(run)
        agent.kill(signal.SIGKILL)
        agent.start()
        agent.client.ensure(runs[2])
        for run in runs:
            wait_log(agent.client, run.key, b"begun")


def test_who_is_ready_says_for_whom_it_waits(home: Home) -> None:
    """A replica whose input takes long was reached; the others wait for as long as that takes."""
    runs = local(2, timeout=10.0)
    data = Input(channel="data", uri="s3://nowhere/data/", paths=("/mnt/data",))
    slow = runs[1].model_copy(update={"inputs": (data,)})  # no object store answers here
    with running_agent(home) as agent:
        for run in (runs[0], slow):
            agent.client.ensure(run)
        wait_for(agent.client, runs[0].key, lambda seen: seen.message == "ready; waits for rank 1 (node here)")
        seen = wait_for(agent.client, slow.key, lambda seen: seen.reason is RunReason.STORE_UNREACHABLE)
        assert seen.phase is RunPhase.PREPARING
        agent.client.stop(slow.key, 0.0)
        assert wait_ended(agent.client, slow.key).reason is RunReason.STOPPED
        # Nobody said that it failed: the one that waits gives up by itself only where it loses rank 0.
        assert observe(agent.client, runs[0].key).message == "ready; waits for rank 1 (node here)"


def test_a_stop_ends_the_wait_at_once_and_frees_the_port(home: Home) -> None:
    runs = local(2, timeout=30.0)
    assert runs[0].rendezvous is not None
    port = runs[0].rendezvous.peers[0].port
    with running_agent(home) as agent:
        agent.client.ensure(runs[0])
        poll(lambda: _listens(port))
        agent.client.stop(runs[0].key, 30.0)
        assert wait_ended(agent.client, runs[0].key).reason is RunReason.STOPPED
        assert not _listens(port)


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def test_a_disk_that_is_too_full_is_told_before_anything_starts(home: Home) -> None:
    run = local(1)[0].model_copy(update={"disk": 1 << 59, "rendezvous": None})
    with running_agent(home) as agent:
        agent.client.ensure(run)
        seen = wait_ended(agent.client, run.key)
    assert seen.reason is RunReason.PREFLIGHT_FAILED
    assert "free where runs write" in seen.message
    assert "asks for 512Pi" in seen.message


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_an_input_that_does_not_fit_is_told_before_it_is_downloaded(
    home: Home, store: Credentials, agent_store: Credentials, bucket: str
) -> None:
    objects = ObjectClient(store)
    objects.put(ObjectUri(bucket, "large/data"), bytes(24 << 20))
    objects.put(ObjectUri(bucket, "small/data"), bytes(12 << 20))
    home.secrets.mkdir()
    (home.secrets / "agent.json").write_text(agent_store.model_dump_json())
    home.agent.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", home.agent], check=True)
    try:
        with running_agent(home) as agent:
            for number, folder in enumerate(("small", "large")):
                uri = f"s3://{bucket}/{folder}/"
                run = run_spec(
                    number, "true", inputs=(Input(channel="data", uri=uri, paths=("/mnt/data",)),), disk=9 << 20
                )
                agent.client.ensure(run)
                seen = wait_ended(agent.client, run.key)
                if folder == "small":
                    assert seen.reason is RunReason.COMPLETED, seen
            # Even without the first one's input, which made place for it.
            assert seen.reason is RunReason.PREFLIGHT_FAILED
            assert f"input data ({uri}) is 24Mi, and node " in seen.message
            assert "free beside the 9Mi of preflight.disk" in seen.message
    finally:
        subprocess.run(["umount", home.agent], check=True)


def test_gpus_that_are_not_there_are_told(home: Home) -> None:
    """Never fewer in silence."""
    run = local(1)[0].model_copy(update={"rendezvous": None})
    run = run.model_copy(update={"resources": run.resources.model_copy(update={"gpu": 2})})
    with running_agent(home) as agent:
        agent.client.ensure(run)
        seen = wait_ended(agent.client, run.key)
        assert observe(agent.client, run.key).started_at is None
    assert seen.reason is RunReason.PREFLIGHT_FAILED
    assert seen.message.startswith("2 GPUs are asked for, and node ")
