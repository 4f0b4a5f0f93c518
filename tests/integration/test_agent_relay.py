"""The relay of a real agent: it outlives agents, comes back where it was, and goes when nobody needs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest
from tests.agents import AgentProcess, poll, python, running_agent, wait_ended, wait_for
from tests.integration.test_agent_serving import UNIX_SERVER

from modelworks import relay
from modelworks.cipher import Cipher
from modelworks.courier import caller
from modelworks.courier.outcome import Answer, Broken
from modelworks.gateway.table import parse_address
from modelworks.home import Home
from modelworks.kernel.run import Listen, RunSpec
from modelworks.runtime.launch import free_port

CIPHER = Cipher(b"k" * 32)


@pytest.fixture
def agent(home: Home) -> Iterator[AgentProcess]:
    with running_agent(home, MW_NODE_ADDRESS="127.0.0.1") as process:
        yield process
    poll(lambda: not running(home))


def served(number: int, **fields: object) -> RunSpec:
    run = python(number, UNIX_SERVER, listen=Listen(period=0.1), **fields)
    return run.model_copy(update={"relay": relay.digest(relay.secret(CIPHER, run.key))})


def ask(address: str | None, run: RunSpec) -> Answer | Broken:
    assert address is not None
    target = parse_address(address)
    assert not isinstance(target, str)

    async def call() -> Answer | Broken:
        pool = caller.Pool(target, lambda: relay.Secrets(lambda: CIPHER).preface(run.key))
        found = await pool.ask(caller.request("GET", "/", "replica", [], b""), silence=10.0)
        pool.close()
        return found

    return asyncio.run(call())


def answers(address: str | None, run: RunSpec) -> bool:
    found = ask(address, run)
    return isinstance(found, Answer) and found.body == b"ok"


def state(home: Home) -> dict[str, int]:
    found: dict[str, int] = json.loads(home.relay_state.read_text())
    return found


def running(home: Home) -> bool:
    with contextlib.suppress(OSError, ValueError):
        os.kill(state(home)["pid"], 0)
        return True
    return False


def test_a_replica_is_reached_by_its_secret_whatever_becomes_of_the_agent(agent: AgentProcess) -> None:
    first, second = served(0), served(1)
    for run in (first, second):
        agent.client.ensure(run)
    ready = wait_for(agent.client, first.key, lambda seen: seen.address is not None)
    assert str(ready.address).startswith("tcp:127.0.0.1:")
    assert wait_for(agent.client, second.key, lambda seen: seen.address is not None).address == ready.address
    assert answers(ready.address, first)
    assert answers(ready.address, second)
    assert isinstance(ask(ready.address, served(2)), Broken)
    agent.kill()
    assert answers(ready.address, first)
    agent.start()
    assert wait_for(agent.client, first.key, lambda seen: seen.ready).address == ready.address
    agent.client.stop(first.key, 5.0)
    wait_ended(agent.client, first.key)
    poll(lambda: isinstance(ask(ready.address, first), Broken))
    assert answers(ready.address, second)


def test_a_relay_that_ends_is_started_again_where_it_was(agent: AgentProcess) -> None:
    run = served(0)
    agent.client.ensure(run)
    address = wait_for(agent.client, run.key, lambda seen: seen.address is not None).address
    before = state(agent.home)
    os.kill(before["pid"], signal.SIGKILL)
    poll(lambda: state(agent.home)["pid"] != before["pid"])
    assert state(agent.home)["port"] == before["port"]
    poll(lambda: answers(address, run))
    agent.client.stop(run.key, 5.0)
    wait_ended(agent.client, run.key)
    poll(lambda: not running(agent.home))  # the last replica has gone
    assert not list(agent.home.relay_links.iterdir())


def test_a_relay_ends_with_the_last_replica_when_the_agent_is_gone(agent: AgentProcess) -> None:
    run = served(0)
    agent.client.ensure(run)
    wait_for(agent.client, run.key, lambda seen: seen.address is not None)
    agent.kill()
    assert running(agent.home)
    # What follows is the fixture's: the replica is killed, and the relay must find that out by itself.


def test_a_port_that_is_taken_is_said(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running_agent(home, MW_NODE_ADDRESS="127.0.0.1", MW_RELAY_PORT=str(port)) as agent:
            run = served(0)
            agent.client.ensure(run)
            said = wait_for(agent.client, run.key, lambda seen: seen.ready and "relay" in seen.message)
            assert f"port {port} cannot be listened at: Address already in use" in said.message
            assert said.address is None
            taken.close()
            found = wait_for(agent.client, run.key, lambda seen: seen.address is not None)
            assert found.address == f"tcp:127.0.0.1:{port}"
            assert answers(found.address, run)


def test_what_is_no_port_is_said_and_costs_nothing(home: Home) -> None:
    with running_agent(home, MW_NODE_ADDRESS="127.0.0.1", MW_RELAY_PORT="abc") as agent:
        run = served(0)
        agent.client.ensure(run)
        said = wait_for(agent.client, run.key, lambda seen: seen.ready and "relay" in seen.message)
        assert "MW_RELAY_PORT is 'abc', and not a port" in said.message
        assert not home.relay_lock.exists()  # no relay was even started


def entered(address: str, run: RunSpec) -> socket.socket:
    """A connection on which the replica's bytes pass."""
    host, port = address.removeprefix("tcp:").rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    connection.sendall(relay.Secrets(lambda: CIPHER).preface(run.key))
    assert connection.makefile("rb").readline() == relay.ACCEPTED
    return connection


def test_another_port_or_release_has_another_relay_and_what_passes_goes_on(home: Home) -> None:
    run = served(0)
    with running_agent(home, MW_NODE_ADDRESS="127.0.0.1") as agent:
        agent.client.ensure(run)
        first = wait_for(agent.client, run.key, lambda seen: seen.address is not None).address
        assert first is not None
        before = entered(first, run)
        agent.kill()
        wished = free_port()
        agent.env["MW_RELAY_PORT"] = str(wished)
        agent.start()
        other = f"tcp:127.0.0.1:{wished}"
        assert wait_for(agent.client, run.key, lambda seen: seen.address == other).ready
        assert answers(other, run)
        with pytest.raises(ConnectionRefusedError):
            entered(first, run)
        before.sendall(b"GET / HTTP/1.1\r\nHost: replica\r\nConnection: close\r\n\r\n")
        assert before.makefile("rb").read().endswith(b"ok")
        agent.kill()
        # As a relay of an earlier release left it.
        left = state(home)
        home.relay_state.write_text(json.dumps({"pid": left["pid"], "port": left["port"]}))
        agent.start()
        poll(lambda: state(home)["pid"] != left["pid"])
        assert wait_for(agent.client, run.key, lambda seen: seen.address == other).ready
        poll(lambda: answers(other, run))
    poll(lambda: not running(home))
