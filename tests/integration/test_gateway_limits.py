"""Queues, deadlines, lost replicas, lost clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from tests.gateway_lab import AUTH, QUICK, Client, Lab, Replica, document, header, read_body, request
from tests.integration.test_gateway_proxy import run

from modelworks.gateway.table import Table


class Gate:
    """A handler that answers each request when it is opened, and counts those inside."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def __call__(self, replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await replica.read_head(reader)
            await replica.read_body(reader, head)
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                # A cut connection ends the wait, as a real server notices it.
                waiting = [asyncio.ensure_future(self.open.wait()), asyncio.ensure_future(reader.read(1))]
                done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)
                if waiting[0] not in done:
                    return
            finally:
                self.inside -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()


async def posting(lab: Lab, count: int) -> list[Client]:
    """One after the other, each seen by the gateway before the next."""
    admission = lab.gateway.services[b"digits"].admission
    clients = []
    for _ in range(count):
        seen = admission.in_flight + admission.queued
        client = await lab.client()
        await client.send(request())
        await until(lambda seen=seen: admission.in_flight + admission.queued > seen)
        clients.append(client)
    return clients


async def until(condition: object, timeout: float = 5.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_full_queue_refuses_with_a_time_and_the_queued_are_served(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        lab.route(await lab.replica(gate), await lab.replica(gate), concurrency=2, queue_size=3)
        admission = lab.gateway.services[b"digits"].admission
        clients = await posting(lab, 4)
        await until(lambda: admission.in_flight == 4)
        clients += await posting(lab, 3)
        await until(lambda: admission.queued == 3)
        status, head, data = await (await lab.client()).post()
        assert status == 429
        assert int(header(head, "retry-after") or 0) >= 1
        assert json.loads(data)["code"] == "limit-exceeded"
        gate.open.set()
        answers = [await client.answer() for client in clients]
        assert [a[0] for a in answers] == [200] * 7
        assert gate.most <= 4
        assert {header(a[1], "x-mw-replica") for a in answers} == {"0-0", "1-0"}
        assert (admission.in_flight, admission.queued) == (0, 0)

    run(tmp_path, body)


def test_the_queue_has_a_deadline(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica(Gate()), concurrency=1, queue_timeout=0.2)
        await posting(lab, 1)
        status, head, data = await (await lab.client()).post()
        assert (status, json.loads(data)["code"]) == (429, "limit-exceeded")
        assert int(header(head, "retry-after") or 0) >= 1

    run(tmp_path, body)


def test_a_client_that_goes_takes_its_request_along(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        replica = await lab.replica(gate)
        lab.route(replica, concurrency=1)
        admission = lab.gateway.services[b"digits"].admission
        first, second, third = await posting(lab, 3)
        await until(lambda: gate.inside == 1 and admission.queued == 2)
        second.close()
        await until(lambda: admission.queued == 1)
        first.close()
        await replica.until(lambda: replica.closed == 1)
        gate.open.set()
        assert (await third.answer())[0] == 200
        assert len(replica.heads) == 2  # the second was never sent

    run(tmp_path, body)


def test_a_replica_that_does_not_begin_to_answer(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica(Gate())
        lab.route(replica, keepalive=0.2)
        status, _, data = await (await lab.client()).post()
        assert (status, json.loads(data)["code"]) == (408, "timeout")
        await replica.until(lambda: replica.closed == 1)

    run(tmp_path, body)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"nonsense\r\n\r\n", b"HTTP/1.1 101 X\r\nUpgrade: y\r\n\r\n"]
)
def test_a_replica_that_dies_before_its_answer(tmp_path: Path, answer: bytes) -> None:
    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replica.read_body(reader, await replica.read_head(reader))
        writer.write(answer)

    async def body(lab: Lab) -> None:
        replica = await lab.replica(handler)
        lab.route(replica)
        status, _, data = await (await lab.client()).post()
        assert (status, json.loads(data)["code"]) == (502, "upstream-failed")
        assert len(replica.heads) == 1

    run(tmp_path, body)


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_replica_that_dies_in_its_answer(tmp_path: Path, framing: bytes) -> None:
    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replica.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n3\r\nabc\r\n")
        await writer.drain()

    async def body(lab: Lab) -> None:
        lab.route(await lab.replica(handler))
        client = await lab.client()
        await client.send(request())
        assert not (await client.closed()).endswith(b"0\r\n\r\n")

    run(tmp_path, body)


def test_another_replica_takes_over_for_one_that_is_gone(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        one, two = await lab.replica(), await lab.replica()
        lab.route(one, two)
        client = await lab.client()
        await one.stop()
        for _ in range(6):
            status, head, _ = await client.post()
            assert (status, header(head, "x-mw-replica")) == (200, "1-0")

    run(tmp_path, body)


def test_a_link_in_place_of_a_replicas_socket_is_not_followed(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        private = await lab.replica(name="private.sock")
        link = tmp_path / "replica.sock"
        link.symlink_to(private.path)
        lab.gateway.apply(Table.parse([document(link, queue_timeout=0.3)]))
        client = await lab.client()
        assert (await client.post())[0] == 503
        assert private.connections == 0

    run(tmp_path, body)


def test_a_request_waits_for_a_replica_that_starts_again(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica, queue_timeout=3.0)
        client = await lab.client()
        assert (await client.post())[0] == 200
        await replica.stop()
        await client.send(request())
        await until(lambda: lab.gateway.services[b"digits"].metrics.retries >= 1)
        await replica.start()
        assert (await client.answer())[0] == 200
        await replica.stop()
        status, _, data = await client.post()
        assert (status, json.loads(data)["code"]) == (503, "unavailable")

    run(tmp_path, body)


def test_what_an_ending_replica_accepted_and_did_not_read_is_for_the_next(tmp_path: Path) -> None:
    """Also when its process has died already, and only what its kernel accepts for it is left."""

    async def body(lab: Lab) -> None:
        replica = Replica(tmp_path / "0.sock")
        with socket.socket(socket.AF_UNIX) as dying:
            dying.bind(str(replica.path))
            dying.listen()
            lab.route(replica)
            clients = [await lab.client() for _ in range(3)]
            for client in clients:
                await client.send(request())
            await until(lambda: lab.gateway.services[b"digits"].admission.in_flight == len(clients))
            await asyncio.sleep(0)  # what is connected is sent
        await until(lambda: lab.gateway.services[b"digits"].metrics.retries >= len(clients))
        await replica.start()
        for client in clients:
            assert (await client.answer())[0] == 200
        assert len(replica.heads) == len(clients)
        await replica.stop()

    run(tmp_path, body)


def test_a_kept_connection_that_its_replica_closed_is_not_trusted(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        for _ in range(20):
            assert (await client.post())[0] == 200
            replica.drop()  # the gateway may or may not have noticed when the next one comes

    run(tmp_path, body)


def test_a_removed_replica_finishes_what_it_has(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        old, new = await lab.replica(gate), await lab.replica()
        lab.route(old)
        (client,) = await posting(lab, 1)
        await until(lambda: gate.inside == 1)
        lab.route(new)
        status, head, _ = await (await lab.client()).post()
        assert (status, header(head, "x-mw-replica")) == (200, "0-0")
        assert len(new.heads) == 1
        gate.open.set()
        assert (await client.answer())[0] == 200
        await old.until(lambda: old.closed == 1)  # and its connection goes

    run(tmp_path, body)


def test_the_queued_of_a_stopped_service_are_told(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica(Gate())
        lab.route(replica, concurrency=1)
        admission = lab.gateway.services[b"digits"].admission
        _, queued = await posting(lab, 2)
        await until(lambda: admission.queued == 1)
        lab.route(replica, state="stopped", message="stopped by its owner")
        assert (await queued.answer())[0] == 503

    run(tmp_path, body)


def test_an_early_answer_ends_the_upload(tmp_path: Path) -> None:
    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replica.read_head(reader)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    async def body(lab: Lab) -> None:
        replica = await lab.replica(handler)
        lab.route(replica, max_body=4_000_000)
        client = await lab.client()
        await client.send(request(b"x" * 2_000_000)[:-1000])
        status, head, data = await client.answer()
        assert (status, data, header(head, "connection")) == (400, b"no", "close")
        await replica.until(lambda: replica.closed == 1)

    run(tmp_path, body)


def test_a_reader_that_does_not_read_slows_the_replica_and_is_cut(tmp_path: Path) -> None:
    sent = 0

    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await replica.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async def body(lab: Lab) -> None:
        replica = await lab.replica(handler)
        lab.route(replica)
        client = await lab.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request())
        await replica.until(lambda: replica.closed == 1)
        assert sent < 50_000_000

    run(tmp_path, body)


CHUNKED = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize("head", [CHUNKED, request(b"x" * 2_000_000)[:-2_000_000]])
def test_an_upload_that_trickles_gives_its_place_back(tmp_path: Path, head: bytes) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica(), concurrency=1, queue_size=1, max_body=4_000_000)
        admission = lab.gateway.services[b"digits"].admission
        trickling = await lab.client()
        await trickling.send(head)
        told = asyncio.ensure_future(trickling.answer())
        async with asyncio.timeout(10):
            while not told.done():  # never silent for as long as it may be
                with contextlib.suppress(ConnectionError):  # it is closed behind the answer
                    await trickling.send(b"1\r\nx\r\n" if head is CHUNKED else b"x")
                await asyncio.sleep(0.05)
        assert (await told)[0] == 408
        assert (await (await lab.client()).post())[0] == 200
        assert admission.in_flight == 0

    run(tmp_path, body)


def test_requests_that_came_before_their_turn_are_not_counted_as_waiting_for_ever(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        client = await lab.client()
        await client.send(request(b"x" * 1000) * 3)
        for _ in range(3):
            assert (await client.answer())[0] == 200
        assert "mw_gateway_waiting_bytes 0" in lab.gateway.metrics().splitlines()

    run(tmp_path, body)


@pytest.mark.parametrize("room", [True, False])
def test_an_upload_that_is_small_takes_a_place_when_it_is_whole(tmp_path: Path, room: bool) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica(), concurrency=1, queue_size=1)
        service = lab.gateway.services[b"digits"]
        slow, other = await lab.client(), await lab.client()
        data = b"x" * 50_000
        await slow.send(request(data)[:-1000])
        if room:
            await until(lambda: service.waiting.bytes > 49_000)
            assert (await other.post())[0] == 200
            assert service.admission.in_flight == 0
        else:
            await until(lambda: service.admission.in_flight == 1)  # there is no memory for it to wait in
        await slow.send(data[-1000:])
        status, head, answer = await slow.answer()
        assert (status, answer, header(head, "x-mw-queue-ms")) == (200, data, "0")
        assert (service.admission.in_flight, service.waiting.bytes) == (0, 0)
        assert service.metrics.rejections == {}

    run(tmp_path, body, QUICK if room else replace(QUICK, waiting=10_000))


@pytest.mark.parametrize(("state", "status"), [("stopped", 503), ("", 404)])
def test_a_service_that_goes_while_an_upload_comes_in_is_told_of(tmp_path: Path, state: str, status: int) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        service = lab.gateway.services[b"digits"]
        client = await lab.client()
        await client.send(request(b"xxxx")[:-2])
        await until(lambda: service.waiting.bytes > 0)
        lab.gateway.apply(Table.parse([document(state=state)]) if state else Table({}))
        await client.send(b"xx")
        assert (await client.answer())[0] == status
        assert service.waiting.bytes == 0
        assert not replica.heads

    run(tmp_path, body)


async def converses(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await replica.read_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    while int(await reader.readuntil(b"\r\n"), 16):
        writer.write(b"1\r\n" + await reader.readexactly(3))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


@pytest.mark.parametrize("answered", [False, True])
def test_an_upload_that_flows_and_a_conversation_take_as_long_as_they_like(tmp_path: Path, answered: bool) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica(converses if answered else None))
        client = await lab.client()
        size = 1 if answered else 5000
        await client.send(CHUNKED)
        head = await client.head() if answered else b""
        for _ in range(12):
            await client.send(b"%x\r\n%b\r\n" % (size, b"x" * size))
            await asyncio.sleep(0.1)
        await client.send("0\r\n\r\n")
        if answered:
            assert await read_body(client.reader, head) == b"hi" + b"x" * 12
        else:
            status, _, data = await client.answer()
            assert (status, len(data)) == (200, 12 * size)

    run(tmp_path, body, replace(QUICK, stall_timeout=1.0))


def test_slow_clients_are_told_and_idle_ones_closed(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        slow_head, slow_body, idle = await lab.client(), await lab.client(), await lab.client()
        await slow_head.send("POST /api/predict/digits HTTP/1.1\r\nHo")
        await slow_body.send(request(b"xxxx")[:-2])
        assert (await slow_head.answer())[0] == 408
        assert (await slow_body.answer())[0] == 408
        assert await idle.closed() == b""
        assert lab.gateway.services[b"digits"].admission.in_flight == 0

    run(tmp_path, body)


def test_draining_answers_what_comes_and_then_ends(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        lab.route(await lab.replica(gate))
        silent = await lab.client()
        (working,) = await posting(lab, 1)
        await until(lambda: gate.inside == 1)
        draining = asyncio.create_task(lab.gateway.drain())
        await until(lambda: lab.gateway.draining)
        await silent.send(request(path="/healthz"))
        _, head, _ = await silent.answer()
        assert header(head, "connection") == "close"
        gate.open.set()
        status, head, _ = await working.answer()
        assert (status, header(head, "connection")) == (200, "close")
        async with asyncio.timeout(2):
            await draining

    run(tmp_path, body)


def test_it_drains_longer_while_somebody_stands_by(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        lab.route(await lab.replica(gate))
        (working,) = await posting(lab, 1)
        await until(lambda: gate.inside == 1)
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=theirs)
        ours.settimeout(10.0)
        with ours:
            lab.gateway.stand_by(transport)
            draining = asyncio.create_task(lab.gateway.drain())
            assert await asyncio.to_thread(ours.recv, 64) == b"draining\n"
            began = lab.gateway.now()
            await until(lambda: lab.gateway.now() > began + 4 * lab.gateway.limits.drain)
            assert not draining.done()
            gate.open.set()
            assert (await working.answer())[0] == 200
            async with asyncio.timeout(5):
                await draining
        transport.close()

    run(tmp_path, body, replace(QUICK, drain=0.05))


@pytest.mark.parametrize("asked", [True, False], ids=["nobody stands by", "it fails by itself"])
def test_it_ends_soon_when_nobody_takes_its_place(tmp_path: Path, asked: bool) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        lab.route(await lab.replica(gate))
        await posting(lab, 1)
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=theirs)
        ours.settimeout(10.0)
        lab.gateway.stand_by(transport)
        draining = asyncio.create_task(lab.gateway.drain(asked=asked))
        if asked:
            assert await asyncio.to_thread(ours.recv, 64) == b"draining\n"
            lab.gateway.left_alone(transport)
        async with asyncio.timeout(5):
            await draining
        transport.close()
        assert await asyncio.to_thread(ours.recv, 64) == b""
        ours.close()

    run(tmp_path, body, replace(QUICK, drain=0.05))


def test_health_needs_no_replica(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        client = await lab.client()
        await client.send(f"GET /healthz HTTP/1.1\r\nHost: h\r\n{AUTH}\r\n")
        assert (await client.answer())[::2] == (200, b'{"status":"ok"}')

    run(tmp_path, body)
