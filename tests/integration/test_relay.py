"""The relay between a gateway and replicas of another node: what passes, what does not, and who is let in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from tests.gateway_lab import AUTH, QUICK, Lab, Replica, header, lab, request
from tests.ray_cluster import isolated, networks
from tests.relays import CIPHER, Relay, relaying

from modelworks import relay
from modelworks.cipher import Cipher
from modelworks.courier import caller
from modelworks.courier.outcome import Answer, Broken
from modelworks.relay import ACCEPTED, PREFACE, Secrets

KEY = "abcdef/r1/0/0"


def run(folder: Path, body: Callable[[Relay, Lab], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), relaying(folder) as one, lab(folder, QUICK) as bench:
            await body(one, bench)

    uvloop.run(main())


async def entered(one: Relay, preface: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*one.target)
    writer.write(preface)
    return reader, writer


async def read_all(reader: asyncio.StreamReader) -> None:
    while await reader.read(1000):
        pass


def preface(key: str = KEY, cipher: Cipher = CIPHER) -> bytes:
    return Secrets(lambda: cipher).preface(key)


def test_requests_pass_and_connections_are_kept(tmp_path: Path) -> None:
    async def body(one: Relay, lab: Lab) -> None:
        replicas = [await lab.replica(), await lab.replica()]
        one.route(lab, *replicas)
        client = await lab.client()
        for i in range(6):
            status, head, data = await client.post(b"hello %d" % i)
            assert (status, data) == (200, b"hello %d" % i)
            assert header(head, "x-mw-replica") in ("0-0", "1-0")
        assert one.accepted == sum(replica.connections for replica in replicas) <= 2

    run(tmp_path, body)


def test_large_bodies_pass_both_ways_in_the_pace_of_who_reads(tmp_path: Path) -> None:
    sent = os.urandom(900_000)

    async def slowly(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await replica.read_head(reader)
        body = b""
        while len(body) < len(sent):
            body += await reader.read(50_000)
            await asyncio.sleep(0)
        assert int(header(head, "content-length") or 0) == len(body)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * len(body)) + 4 * body)
        await writer.drain()

    async def body(one: Relay, lab: Lab) -> None:
        one.route(lab, await lab.replica(slowly))
        status, _, data = await (await lab.client()).post(sent)
        assert status == 200
        assert data == 4 * sent

    run(tmp_path, body)


def test_a_stream_passes_as_it_comes_and_ends_when_the_client_goes(tmp_path: Path) -> None:
    async def stream(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replica.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert await reader.read() == b""  # the client has gone

    async def body(one: Relay, lab: Lab) -> None:
        replica = await lab.replica(stream)
        one.route(lab, replica)
        client = await lab.client()
        await client.send(f"GET /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}\r\n")
        assert header(await client.head(), "content-type") == "text/event-stream"
        assert b"data: 1" in await client.reader.readuntil(b"data: 1\n\n")
        client.writer.transport.abort()
        await replica.until(lambda: replica.closed == 1)

    run(tmp_path, body)


def test_a_web_socket_is_a_tunnel(tmp_path: Path) -> None:
    async def shout(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replica.read_head(reader)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi")
        while data := await reader.read(100):
            writer.write(data.upper())

    async def body(one: Relay, lab: Lab) -> None:
        replica = await lab.replica(shout)
        one.route(lab, replica)
        client = await lab.client()
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n"
        await client.send(f"GET /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}{upgrade}\r\n")
        assert b" 101 " in (await client.head()).split(b"\r\n")[0]
        assert await client.reader.readexactly(2) == b"hi"
        await client.send("abc")
        assert await client.reader.readexactly(3) == b"ABC"
        client.close()
        await replica.until(lambda: replica.closed == 1)

    run(tmp_path, body)


def test_an_answer_that_is_cut_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    async def part(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # what it did not read makes a reset of its end
        writer.write(b"HTTP/1.1 200 OK\r\n\r\npart")
        await writer.drain()
        writer.transport.abort()

    async def body(one: Relay, lab: Lab) -> None:
        replica = await lab.replica(part)
        one.admit(KEY, replica.path)
        reader, writer = await entered(one, preface())
        assert await reader.readexactly(len(ACCEPTED)) == ACCEPTED
        writer.write(b"x" * 300_000)
        with pytest.raises(ConnectionResetError):
            await read_all(reader)
        writer.close()

    run(tmp_path, body)


def test_a_relay_that_says_nothing_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with relaying(tmp_path) as one, lab(tmp_path, replace(QUICK, connect_timeout=0.1)) as bench:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                one.address = f"tcp:127.0.0.1:{silent.getsockname()[1]}"
                one.route(bench, await bench.replica(), queue_timeout=0.3)
                assert (await (await bench.client()).post())[0] == 503
                assert f"the relay at {one.address}: no answer" in caplog.messages

    uvloop.run(body())


def test_half_of_a_connection_may_end_before_the_other(tmp_path: Path) -> None:
    async def count(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.read()))

    async def body(one: Relay, lab: Lab) -> None:
        one.admit(KEY, (await lab.replica(count)).path)
        reader, writer = await entered(one, preface())
        assert await reader.readexactly(len(ACCEPTED)) == ACCEPTED
        writer.write(b"x" * 500_000)
        writer.write_eof()
        assert await reader.read() == b"500000"
        writer.close()

    run(tmp_path, body)


def test_a_replica_that_does_not_listen_gets_nothing_and_another_one_all(tmp_path: Path) -> None:
    async def body(one: Relay, lab: Lab) -> None:
        gone, there = await lab.replica(), await lab.replica()
        await gone.stop()
        one.route(lab, gone, there)
        client = await lab.client()
        for _ in range(4):
            assert (await client.post())[0] == 200
        one.dismiss(f"abcdef/r1/{gone.path.stem}/0")  # and one whose run has ended is not even looked for
        for _ in range(4):
            assert (await client.post())[0] == 200

    run(tmp_path, body)


@pytest.mark.parametrize(
    "line",
    [
        preface(cipher=Cipher(b"x" * 32)),
        preface("abcdef/r1/1/0"),
        b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: whoever comes by, with a long line of its own\r\n\r\n",
        b"MW-RELAY/1 " + b"../" * 21 + b"x\n",
        preface()[:-1] + b"x",
        preface() + b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["another home's secret", "another run's secret", "HTTP", "a path", "no end", "more than the secret"],
)
def test_who_has_no_secret_is_told_nothing(tmp_path: Path, line: bytes) -> None:
    async def body(one: Relay, lab: Lab) -> None:
        replica = await lab.replica()
        one.admit(KEY, replica.path)
        reader, writer = await entered(one, line)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert replica.connections == 0

    run(tmp_path, body)


def test_a_secret_in_pieces_is_waited_for_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.agent.relay._GREETING", 0.3)

    async def body(one: Relay, lab: Lab) -> None:
        one.admit(KEY, (await lab.replica()).path)
        reader, writer = await entered(one, preface()[: PREFACE // 2])
        await asyncio.sleep(0)
        writer.write(preface()[PREFACE // 2 :])
        assert await reader.readexactly(len(ACCEPTED)) == ACCEPTED
        silent, nothing = await entered(one, b"MW-RELAY/1 ")
        assert await silent.read() == b""
        writer.close()
        nothing.close()

    run(tmp_path, body)


def test_many_who_say_nothing_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.agent.relay._MOST_GREETING", 4)

    async def body(one: Relay, lab: Lab) -> None:
        one.admit(KEY, (await lab.replica()).path)
        idle = [await entered(one, b"") for _ in range(6)]
        reader, writer = await entered(one, preface())
        assert await reader.readexactly(len(ACCEPTED)) == ACCEPTED
        assert await idle[0][0].read() == b""  # the first ones make room
        for _, one_writer in [*idle, (reader, writer)]:
            one_writer.close()

    run(tmp_path, body)


def test_wrong_secrets_of_an_address_shut_nobody_out_who_has_the_right_one(tmp_path: Path) -> None:
    async def body(one: Relay, lab: Lab) -> None:
        one.admit(KEY, (await lab.replica()).path)
        for _ in range(100):
            reader, writer = await entered(one, preface("abcdef/r1/9/0"))
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        reader, writer = await entered(one, preface())
        assert await reader.readexactly(len(ACCEPTED)) == ACCEPTED
        writer.close()

    run(tmp_path, body)


@pytest.mark.skipif(not isolated(), reason="a network of its own takes root")
def test_a_node_that_is_cut_off_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_UNACKNOWLEDGED", 1000)

    async def body(one: Relay, lab: Lab) -> None:
        with networks(1) as (_, ((host, namespace, link),)), beyond(str(namespace), one.links, host) as port:
            one.address = f"tcp:{host}:{port}"
            one.route(lab, await lab.replica(), keepalive=60.0)
            client = await lab.client()
            assert (await client.post())[0] == 200
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
            await client.send(request())
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 502 ")

    run(tmp_path, body)


@contextlib.contextmanager
def beyond(namespace: str, links: Path, host: str) -> Iterator[int]:
    """A relay on another host; its port."""
    program = textwrap.dedent(
        f"""
        import asyncio, pathlib, uvloop
        from modelworks.agent.relay import Caller, Gate
        async def main():
            gate = Gate(pathlib.Path({str(links)!r}))
            server = await asyncio.get_running_loop().create_server(lambda: Caller(gate), {host!r}, 0)
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()
        uvloop.run(main())
        """
    )
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_without_the_master_key_a_replica_is_out_of_reach(tmp_path: Path) -> None:
    async def body(one: Relay, lab: Lab) -> None:
        def nothing() -> Cipher:
            raise FileNotFoundError("master.key")

        one.load = nothing
        one.route(lab, await lab.replica(), queue_timeout=0.3)
        status, head, _ = await (await lab.client()).post()
        assert status == 503
        assert header(head, "content-type") == "application/problem+json"
        assert one.accepted == 0

    run(tmp_path, body)


def test_the_courier_goes_the_same_way(tmp_path: Path) -> None:
    async def body(one: Relay, lab: Lab) -> None:
        replica = await lab.replica()
        one.admit(KEY, replica.path)
        pool = caller.Pool(one.target, preface)
        request = caller.request("POST", "/", "replica", [], b"hello")
        for _ in range(2):
            found = await pool.ask(request, silence=5.0)
            assert isinstance(found, Answer)
            assert found.body == b"hello"
        assert one.accepted == 1
        pool.close()
        refused = await caller.Pool(one.target, lambda: preface("abcdef/r1/9/0")).ask(request, silence=5.0)
        assert isinstance(refused, Broken)
        assert not refused.sent

    run(tmp_path, body)


def test_secrets_follow_from_key_and_run_and_nodes_know_digests() -> None:
    one, other = relay.secret(CIPHER, KEY), relay.secret(CIPHER, "abcdef/r1/0/1")
    assert len(one) == 64
    assert one != other
    assert one != relay.secret(Cipher(b"x" * 32), KEY)
    assert relay.claimed(preface()) == relay.digest(one)
    assert one not in relay.digest(one)
