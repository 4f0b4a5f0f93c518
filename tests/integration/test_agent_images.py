"""Runs in images: a real container engine below the real agent."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from tests import images
from tests.agents import poll, run_spec, running_agent, wait_ended, wait_for

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.errors import EnvironmentFailed
from modelworks.kernel.run import (
    EnvironmentRef,
    Listen,
    Resources,
    RunPhase,
    RunReason,
    RunSpec,
    Transport,
    VolumeMount,
)
from modelworks.runtime import container
from modelworks.runtime.container import Engine, container_name
from modelworks.runtime.local import kill_all

pytestmark = [pytest.mark.xdist_group("containers")]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return images.engine()


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    return images.server(engine)


@pytest.fixture
def agent(home: Home, engine: Engine) -> Iterator[InProcessAgent]:
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)
    left = engine.call("ps", "--all", "--format", "{{.Names}}").stdout.split()
    assert [name for name in left if name.startswith("mw-")] == []


def name_of_groups(key: str) -> str:
    return f"r-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def gone(engine: Engine, key: str) -> None:
    """Until nothing is left of a run's container: it goes after the run's end was told."""
    poll(lambda: not list(Path("/sys/fs/cgroup").glob(f"*/modelworks/{name_of_groups(key)}")))
    poll(lambda: container_name(key) not in engine.call("ps", "--all", "--format", "{{.Names}}").stdout)


def in_image(image: str, *command: str, **fields: object) -> RunSpec:
    environment = EnvironmentRef(digest="image", image=image)
    return run_spec(0, *command, environment=environment, **fields)


def served(image: str, **fields: object) -> RunSpec:
    return in_image(image, listen=Listen(transport=Transport.PORT, port=8123, period=0.1), **fields)


def call(address: str | None, path: str) -> str:
    assert address is not None
    with httpx.Client(transport=httpx.HTTPTransport(uds=address.removeprefix("unix:"))) as client:
        return client.get(f"http://replica{path}", timeout=20).raise_for_status().text


def test_the_images_own_command_serves_behind_the_socket_alone(agent: InProcessAgent, image: str) -> None:
    run = served(image, env={"GREETING": "hello there"})
    agent.ensure(run)
    ready = wait_for(agent, run.key, lambda seen: seen.ready)
    answer = call(ready.address, "/cgi-bin/who")
    assert "greeting=hello there port=8123" in answer
    assert "path=/usr/local/sbin" in answer or "path=/" in answer
    if os.geteuid() == 0:
        with pytest.raises(httpx.ConnectError):
            httpx.get("http://127.0.0.1:8123/health", trust_env=False)
    agent.stop(run.key, 10.0, "Stopped")
    ended = wait_ended(agent, run.key)
    assert ended.reason is RunReason.STOPPED
    assert b"drained" in agent.log(run.key)


def test_exit_code_log_and_volume_are_the_containers(agent: InProcessAgent, image: str, home: Home) -> None:
    source = home.volumes / "shared"
    source.mkdir(parents=True)
    volume = VolumeMount(name="shared", source=str(source), path="/data/shared")
    good = in_image(image, "sh", "-c", "echo said; touch /data/shared/made; exit 3", volumes=(volume,))
    agent.ensure(good)
    ended = wait_ended(agent, good.key)
    assert (source / "made").exists()
    assert (ended.phase, ended.exit_code) == (RunPhase.EXITED, 3)
    assert b"said" in agent.log(good.key)


def test_a_killed_client_leaves_no_container(agent: InProcessAgent, image: str, engine: Engine) -> None:
    run = served(image)
    agent.ensure(run)
    ready = wait_for(agent, run.key, lambda seen: seen.ready)
    assert ready.pid is not None
    os.kill(ready.pid, signal.SIGKILL)
    wait_ended(agent, run.key)
    gone(engine, run.key)


def test_too_much_memory_is_said(agent: InProcessAgent, image: str) -> None:
    # tail keeps what has no end of line in memory.
    run = in_image(image, "sh", "-c", "tail /dev/zero", resources=Resources(cpu=1000, memory=64 * 1024**2))
    agent.ensure(run)
    ended = wait_ended(agent, run.key)
    assert ended.reason is RunReason.OUT_OF_MEMORY, ended.message


def test_an_image_that_is_nowhere(engine: Engine) -> None:
    with pytest.raises(EnvironmentFailed, match=r"cannot be pulled"):
        container.pull("localhost:1/no/such:1", lambda text: None)


def test_an_agent_that_dies_finds_its_container_again(home: Home, engine: Engine, image: str) -> None:
    with running_agent(home) as agent:
        run = served(image)
        agent.client.ensure(run)
        poll(lambda: agent.client.observe(run.key)[0].ready)
        before = agent.client.observe(run.key)[0]
        agent.kill()
        assert "port=8123" in call(before.address, "/cgi-bin/who")
        agent.start()
        poll(lambda: agent.client.observe(run.key)[0].ready)
        assert agent.client.observe(run.key)[0].pid == before.pid
        agent.client.stop(run.key, 10.0, "Stopped")
        poll(lambda: agent.client.observe(run.key)[0].phase.ended)
        assert agent.client.observe(run.key)[0].reason is RunReason.STOPPED
        gone(engine, run.key)


def test_an_image_is_fetched_beforehand(home: Home, image: str) -> None:
    with running_agent(home) as agent:
        states = {name: EnvironmentRef(digest=name, image=name) for name in (image, "localhost:1/no/such:1")}
        found = {name: {"state": "building", "message": ""} for name in states}

        def asked() -> bool:
            for name, ref in states.items():
                if found[name]["state"] == "building":
                    found[name] = dict(agent.client.build(ref))
            return all(one["state"] != "building" for one in found.values())

        poll(asked)
        assert found[image]["state"] == "ready"
        failed = found["localhost:1/no/such:1"]
        assert (failed["state"], "cannot be pulled" in failed["message"]) == ("failed", True)


@contextmanager
def mute_registry() -> Iterator[tuple[str, socket.socket]]:
    """``host:port`` of one that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield f"127.0.0.1:{listening.getsockname()[1]}", listening


def test_a_run_that_is_stopped_while_its_image_is_pulled(home: Home, engine: Engine) -> None:
    with mute_registry() as (address, listening):
        with running_agent(home) as agent:
            run = in_image(f"{address}/shop/server:1")
            agent.client.ensure(run)
            connection, _ = listening.accept()
            connection.settimeout(60)
            assert "pulling image" in agent.client.observe(run.key)[0].message
            agent.client.stop(run.key, 5.0, "Stopped")
            poll(lambda: agent.client.observe(run.key)[0].phase.ended)
            assert agent.client.observe(run.key)[0].reason is RunReason.STOPPED
        # The agent is gone, and what pulled for it goes too.
        with connection, suppress(ConnectionError):
            while connection.recv(1 << 16):
                pass
